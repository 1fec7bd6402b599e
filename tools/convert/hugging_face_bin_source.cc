// Reads a Hugging Face folder from before safetensors: config.json, and either pytorch_model.bin or
// shards of it with an index.
#include <algorithm>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/model/checkpoint.h"
#include "engine/model/file.h"
#include "engine/model/json.h"
#include "engine/model/shard_index.h"
#include "tools/convert/hugging_face_files.h"
#include "tools/convert/model_tensors.h"
#include "tools/convert/source.h"
#include "tools/convert/torch_file.h"
#include "tools/convert/torch_source.h"

namespace kascade::convert {
namespace {

namespace fs = std::filesystem;

constexpr char kSingleFile[] = "pytorch_model.bin";
constexpr char kIndexFile[] = "pytorch_model.bin.index.json";

absl::Status invalid(const fs::path& file, const std::string& fault) {
  return absl::InvalidArgumentError(absl::StrCat(file.string(), ": ", fault));
}

class BinReader {
 public:
  explicit BinReader(fs::path folder) : folder_(std::move(folder)) {}

  absl::StatusOr<TorchModel> read(const SourceOptions& options) {
    if (auto status = read_config(options); !status.ok()) return status;
    if (auto status = open_files(); !status.ok()) return status;
    if (auto status = add_tensors(); !status.ok()) return status;
    const size_t files = model_.files.size();
    model_.family =
        absl::StrCat("Hugging Face PyTorch (", files, files == 1 ? " file)" : " files)");
    model_.side_files = hugging_face_side_files(folder_);
    return std::move(model_);
  }

 private:
  absl::Status read_config(const SourceOptions& options) {
    auto text = hugging_face_config(folder_, options);
    if (!text.ok()) return text.status();
    auto config = parse_hugging_face_config(folder_, *text);
    if (!config.ok()) return config.status();
    if (auto status = check_side_files(folder_); !status.ok()) return status;
    model_.config_json = *std::move(text);
    model_.config = *std::move(config);
    model_.config.name = folder_name(folder_);
    model_.inputs.push_back(folder_ / "config.json");
    if (options.rope_factor) {
      model_.decisions.push_back(absl::StrCat("rope factor ", *options.rope_factor, ": asked for"));
    }
    return absl::OkStatus();
  }

  absl::Status open_files() {
    auto single = open_file(kSingleFile, nullptr);
    if (!absl::IsNotFound(single)) return single;
    const auto shards = read_shard_index(folder_ / kIndexFile, ".bin");
    if (absl::IsNotFound(shards.status())) {
      return absl::NotFoundError(
          absl::StrCat(folder_.string(), ": found neither ", kSingleFile, " nor ", kIndexFile));
    }
    if (!shards.ok()) return shards.status();
    model_.inputs.push_back(folder_ / kIndexFile);
    for (const auto& [shard, names] : *shards) {
      if (auto status = open_file(shard, &names); !status.ok()) return status;
    }
    return absl::OkStatus();
  }

  // If `expected` is given, the file must hold exactly the tensors of these names.
  absl::Status open_file(const std::string& name, const std::set<std::string>* expected) {
    auto file = TorchFile::open(folder_ / name);
    if (!file.ok()) return file.status();
    std::set<std::string> missing = expected ? *expected : std::set<std::string>();
    for (const auto& [tensor, view] : file->tensors()) {
      if (expected && missing.erase(tensor) == 0) {
        return invalid(file->path(),
                       absl::StrCat("tensor ", shown(tensor),
                                    " is in this file, but the index does not say so"));
      }
      stored_.emplace(tensor, Stored{file->path(), &view});
    }
    if (!missing.empty()) {
      return invalid(file->path(),
                     absl::StrCat("tensor ", shown(*missing.begin()),
                                  " should be in this file by the index, but is not"));
    }
    model_.inputs.push_back(file->path());
    model_.files.push_back(*std::move(file));
    return absl::OkStatus();
  }

  absl::StatusOr<JoinedTensor> take(const std::string& name, const std::vector<int64_t>& shape) {
    const auto found = stored_.find(name);
    if (found == stored_.end()) {
      return invalid(folder_, absl::StrCat("tensor ", shown(name), ": is missing"));
    }
    const Stored stored = found->second;
    stored_.erase(found);
    auto status = check_tensor(stored.file, name, *stored.tensor, shape);
    if (!status.ok()) return status;
    return JoinedTensor{{stored.tensor}};
  }

  absl::Status add_tensors() {
    const bool is_tied = model_.config.tied_head;
    // The table that a tied embedding and head share may be stored under either name.
    const bool is_under_head = is_tied && !stored_.contains(kEmbeddingName);
    for (const ModelTensor& tensor : model_tensors(model_.config)) {
      const bool is_tied_head = is_tied && tensor.name == kHeadName;
      if (is_tied_head && !stored_.contains(kHeadName)) continue;
      const bool is_embedding = tensor.name == kEmbeddingName;
      auto taken = take(is_embedding && is_under_head ? kHeadName : tensor.name, tensor.shape);
      if (!taken.ok()) return taken.status();
      if (!is_tied_head) {
        model_.add(tensor.name, tensor.shape, *std::move(taken));
      } else if (!is_same(*taken, model_.joined.front())) {  // the embedding
        return invalid(folder_,
                       absl::StrCat(kHeadName, ": expected the elements of ", kEmbeddingName,
                                    " (tie_word_embeddings is true), found others"));
      }
    }
    for (const auto& [name, stored] : stored_) {
      if (is_ignored_tensor(name)) continue;
      return invalid(
          stored.file,
          absl::StrCat("tensor ", shown(name), ": is not part of a model of type ",
                       shown(model_.config.model_type), " with ", model_.config.layers, " layers"));
    }
    return absl::OkStatus();
  }

  struct Stored {
    fs::path file;
    const TorchTensor* tensor;
  };

  fs::path folder_;
  TorchModel model_;
  std::map<std::string, Stored> stored_;  // tensors of model_.files that are not yet used
};

}  // namespace

absl::StatusOr<std::unique_ptr<Source>> open_hugging_face_bin(const fs::path& folder,
                                                              const SourceOptions& options) {
  auto model = BinReader(folder).read(options);
  if (!model.ok()) return model.status();
  return std::make_unique<TorchSource>(*std::move(model));
}

}  // namespace kascade::convert
