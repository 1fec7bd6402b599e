#include "engine/training/state_files.h"

#include <algorithm>
#include <cstdlib>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "engine/adapter/adapter_file.h"
#include "engine/base/durable_file.h"
#include "engine/model/file.h"
#include "engine/model/json.h"

namespace kascade::training {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kMaxParameterBytes = int64_t{16} << 30;
constexpr int64_t kMaxStateBytes = 1 << 20;

// The arrays of a state and the files that hold them.
struct Part {
  const char* file;
  std::vector<float> TrainingState::* array;
};
constexpr Part kParts[] = {{"parameters.safetensors", &TrainingState::parameters},
                           {"best.safetensors", &TrainingState::best_parameters}};
struct MomentPart {
  const char* file;
  std::vector<float> Moments::* array;
};
constexpr MomentPart kMomentParts[] = {{"first_moments.safetensors", &Moments::first},
                                       {"second_moments.safetensors", &Moments::second}};

// The checkpoints that are whole, oldest first.
std::vector<fs::path> checkpoints(const fs::path& folder) {
  std::vector<fs::path> found;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder, error)) {
    if (fs::exists(entry.path() / "state.json", error)) found.push_back(entry.path());
  }
  std::sort(found.begin(), found.end());
  return found;
}

absl::Status damaged(const fs::path& file, const std::string& what) {
  return absl::InvalidArgumentError(absl::StrCat(file.string(), ": ", what));
}

}  // namespace

absl::Status StateFiles::save(const TrainingState& state, int32_t keep) const {
  const fs::path checkpoint = folder_ / absl::StrFormat("%08d", state.update);
  std::error_code error;
  fs::create_directories(checkpoint, error);
  if (error) {
    return absl::UnknownError(
        absl::StrCat("cannot create ", checkpoint.string(), ": ", error.message()));
  }
  const auto write = [&](const char* name, const std::vector<float>& array) -> absl::Status {
    if (array.empty()) return absl::OkStatus();
    return write_durably(parameters_file(array, layer_, layers_), checkpoint / name);
  };
  for (const Part& part : kParts) {
    if (auto status = write(part.file, state.*part.array); !status.ok()) return status;
  }
  for (const MomentPart& part : kMomentParts) {
    if (auto status = write(part.file, state.moments.*part.array); !status.ok()) return status;
  }
  nlohmann::ordered_json object = {{"settings", settings_},
                                   {"update", state.update},
                                   {"checks_without_gain", state.checks_without_gain}};
  // 17 digits, from which every double is read back as it was.
  if (state.best_held_out) object["best_held_out"] = absl::StrFormat("%.17g", *state.best_held_out);
  const absl::Status status = write_durably(object.dump(2) + "\n", checkpoint / "state.json");
  if (!status.ok()) return status;
  std::vector<fs::path> all = checkpoints(folder_);
  for (size_t i = 0; i + static_cast<size_t>(keep) < all.size(); ++i) {
    // Without its last file it is no checkpoint, however far the removal comes.
    if (auto removed = remove_durably(all[i] / "state.json"); !removed.ok()) return removed;
    fs::remove_all(all[i], error);
  }
  return absl::OkStatus();
}

absl::StatusOr<TrainingState> StateFiles::load(const fs::path& checkpoint) const {
  const fs::path description = checkpoint / "state.json";
  auto text = read_file(description, kMaxStateBytes);
  if (!text.ok()) return text.status();
  auto object = parse_json_object(*text, description.string());
  if (!object.ok()) return object.status();
  if (!object->contains("settings") || (*object)["settings"] != settings_) {
    return absl::FailedPreconditionError(absl::StrCat(
        description.string(), ": is of a training with other settings, texts or another model"));
  }
  TrainingState state;
  const auto update = as_integer(object->value("update", nlohmann::json()));
  const auto checks = as_integer(object->value("checks_without_gain", nlohmann::json()));
  if (!update || *update < 1 || !checks || *checks < 0 || *checks > INT32_MAX) {
    return damaged(description, "update or checks_without_gain is not a count");
  }
  state.update = *update;
  state.checks_without_gain = static_cast<int32_t>(*checks);
  if (const auto best = object->find("best_held_out"); best != object->end()) {
    if (!best->is_string()) return damaged(description, "best_held_out is not a text");
    state.best_held_out = std::strtod(best->get<std::string>().c_str(), nullptr);
  }
  const auto read = [&](const char* name, std::vector<float>& array) -> absl::Status {
    const fs::path file = checkpoint / name;
    auto content = read_file(file, kMaxParameterBytes);
    if (!content.ok()) return content.status();
    auto values = parameters_from(*content, file.string(), layer_, layers_);
    if (values.ok()) array = *std::move(values);
    return values.status();
  };
  for (const Part& part : kParts) {
    if (part.array == &TrainingState::best_parameters && !state.best_held_out) continue;
    if (auto status = read(part.file, state.*part.array); !status.ok()) return status;
  }
  for (const MomentPart& part : kMomentParts) {
    if (auto status = read(part.file, state.moments.*part.array); !status.ok()) return status;
  }
  return state;
}

absl::StatusOr<std::optional<TrainingState>> StateFiles::newest() const {
  const std::vector<fs::path> all = checkpoints(folder_);
  if (all.empty()) return std::optional<TrainingState>();
  auto state = load(all.back());
  if (!state.ok()) return state.status();
  return std::optional<TrainingState>(*std::move(state));
}

}  // namespace kascade::training
