#include "tests/bench/measured_schedule.h"

#include <cstdint>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "tests/bench/shapes.h"

namespace kascade::bench {
namespace {

std::string shape_text(size_t layers, size_t kv_heads) {
  return absl::StrCat(layers, " layers of ", kv_heads, " KV heads");
}

absl::Status check_shape(const Schedule& schedule, const ModelConfig& config,
                         const std::string& file) {
  const size_t kv_heads = schedule.layers.empty() ? 0 : schedule.layers.front().head_map.size();
  const std::string of_file = shape_text(schedule.layers.size(), kv_heads);
  const std::string of_model =
      shape_text(static_cast<size_t>(config.layers), static_cast<size_t>(config.kv_heads));
  if (of_file == of_model) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("schedule ", file, ": is for ", of_file,
                                                 "; the measured shape ", config.name, " has ",
                                                 of_model));
}

std::string roles_text(const Schedule& schedule) {
  return absl::StrFormat("%d dense, %d anchor and %d reuse layers", schedule.count(Role::kDense),
                         schedule.count(Role::kAnchor), schedule.count(Role::kReuse));
}

std::string keys_text(const SelectionSettings& settings) {
  if (settings.family == Family::kTile) {
    return absl::StrFormat("%d key tiles of %d tokens", settings.top_k, settings.query_tile);
  }
  return absl::StrFormat("%.4g %% of the keys, at least %d", settings.ratio * 100,
                         settings.min_keys);
}

}  // namespace

absl::StatusOr<MeasuredSchedule> measured_schedule(const ModelConfig& config,
                                                   const std::string& file, double ratio) {
  if (file.empty()) return MeasuredSchedule{.schedule = typical_schedule(config, ratio)};
  auto schedule = load_schedule(file);
  if (!schedule.ok()) return schedule.status();
  if (auto status = check_shape(*schedule, config, file); !status.ok()) return status;
  if (auto status = validate(*schedule, {config.layers, config.kv_heads}); !status.ok()) {
    return absl::InvalidArgumentError(absl::StrCat("schedule ", file, ": ", status.message()));
  }
  if (schedule->selection.mass > 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "schedule ", file, ": selection.mass is ", schedule->selection.mass,
        ": how many keys hold this share of the attention only a real model tells; measure it with "
        "kascade benchmark"));
  }
  return MeasuredSchedule{std::make_shared<const Schedule>(*std::move(schedule)), file};
}

std::string describe(const MeasuredSchedule& measured) {
  const Schedule& schedule = *measured.schedule;
  const std::string content =
      absl::StrCat(roles_text(schedule), ", ", keys_text(schedule.selection));
  if (measured.is_synthetic()) {
    return absl::StrCat("synthetic schedule, calibrated with no model: ", content);
  }
  return absl::StrCat("schedule ", measured.file, ", digest ", schedule.schedule_id,
                      ", calibrated with model ", schedule.model.name, ", which ",
                      schedule.quality.passed ? "passed" : "did NOT pass",
                      " its quality check: ", content);
}

}  // namespace kascade::bench
