// Reads a Hugging Face folder with safetensors, to write it in another dtype or layout.
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/check.h"
#include "engine/model/checkpoint.h"
#include "tools/convert/hugging_face_files.h"
#include "tools/convert/model_tensors.h"
#include "tools/convert/source.h"

namespace kascade::convert {
namespace {

namespace fs = std::filesystem;

class HuggingFaceSource : public Source {
 public:
  HuggingFaceSource(fs::path folder, std::string config_json, ModelConfig config,
                    Checkpoint checkpoint)
      : folder_(std::move(folder)),
        config_json_(std::move(config_json)),
        config_(std::move(config)),
        checkpoint_(std::move(checkpoint)) {
    const auto& stored = checkpoint_.files->tensors();
    for (const auto& [name, tensor] : stored) {
      if (is_ignored_tensor(name)) continue;
      // The table that a tied embedding and head share may be stored under either name.
      const bool tied_head = config_.tied_head && name == kHeadName;
      if (tied_head && stored.contains(kEmbeddingName)) continue;
      tensors_.push_back(
          {tied_head ? kEmbeddingName : name, *float_type(tensor.dtype), tensor.shape});
      stored_.push_back(&tensor);
    }
  }

  std::string family() const override {
    return absl::StrCat("Hugging Face safetensors, ", std::string(name_of(checkpoint_.dtype)));
  }
  const ModelConfig& config() const override { return config_; }
  const std::vector<SourceTensor>& tensors() const override { return tensors_; }
  absl::Status read(size_t index, std::span<std::byte> target) override {
    const StoredTensor& tensor = *stored_[index];
    KASCADE_CHECK(static_cast<int64_t>(target.size()) == tensor.bytes);
    std::memcpy(target.data(), tensor.data, target.size());
    return absl::OkStatus();
  }
  std::vector<SideFile> side_files() const override { return hugging_face_side_files(folder_); }
  std::vector<fs::path> inputs() const override {
    std::vector<fs::path> files = {folder_ / "config.json"};
    files.insert(files.end(), checkpoint_.files->paths().begin(), checkpoint_.files->paths().end());
    return files;
  }
  std::vector<std::string> decisions() const override { return {}; }
  std::string config_json() const override { return config_json_; }

 private:
  fs::path folder_;
  std::string config_json_;
  ModelConfig config_;
  Checkpoint checkpoint_;
  std::vector<SourceTensor> tensors_;
  std::vector<const StoredTensor*> stored_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Source>> open_hugging_face(const fs::path& folder,
                                                          const SourceOptions& options) {
  auto config_json = hugging_face_config(folder, options);
  if (!config_json.ok()) return config_json.status();
  auto config = parse_hugging_face_config(folder, *config_json);
  if (!config.ok()) return config.status();
  if (auto status = check_side_files(folder); !status.ok()) return status;
  auto checkpoint = open_checkpoint(folder, *config);
  if (!checkpoint.ok()) return checkpoint.status();
  return std::make_unique<HuggingFaceSource>(folder, *std::move(config_json), *std::move(config),
                                             *std::move(checkpoint));
}

}  // namespace kascade::convert
