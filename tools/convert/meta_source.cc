// Reads Meta's own format: params.json and consolidated.00.pth, or several such files that each
// hold a part of every matrix (model-parallel shards).
#include <algorithm>
#include <charconv>
#include <map>
#include <optional>
#include <set>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "engine/model/file.h"
#include "engine/model/json.h"
#include "tools/convert/meta_params.h"
#include "tools/convert/model_tensors.h"
#include "tools/convert/source.h"
#include "tools/convert/torch_file.h"
#include "tools/convert/torch_source.h"

namespace kascade::convert {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kMaxParamsBytes = 1 << 20;
constexpr char kMetaEmbedding[] = "tok_embeddings.weight";

// Returns NN of a file name consolidated.NN.pth.
std::optional<int32_t> shard_number(std::string_view name) {
  constexpr std::string_view kBefore = "consolidated.";
  constexpr std::string_view kAfter = ".pth";
  if (!name.starts_with(kBefore) || !name.ends_with(kAfter)) return std::nullopt;
  if (name.size() <= kBefore.size() + kAfter.size()) return std::nullopt;
  name.remove_prefix(kBefore.size());
  name.remove_suffix(kAfter.size());
  if (name.find_first_not_of("0123456789") != name.npos) return std::nullopt;
  int32_t number = 0;
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), number);
  return error == std::errc() ? std::optional(number) : std::nullopt;
}

// Returns the shards in order; a missing one is an error.
absl::StatusOr<std::vector<fs::path>> find_shards(const fs::path& folder) {
  std::map<int32_t, fs::path> found;
  std::error_code error;
  for (fs::directory_iterator entry(folder, error), end; !error && entry != end;
       entry.increment(error)) {
    const fs::path& path = entry->path();
    const auto number = shard_number(path.filename().string());
    if (!number || found.emplace(*number, path).second) continue;
    return absl::InvalidArgumentError(
        absl::StrCat(path.string(), ": shard ", *number, " occurs twice"));
  }
  if (error) {
    return absl::ErrnoToStatus(error.value(), absl::StrCat(folder.string(), ": cannot list"));
  }
  std::vector<fs::path> shards;
  for (const auto& [number, path] : found) {
    if (number != static_cast<int32_t>(shards.size())) break;
    shards.push_back(path);
  }
  if (!shards.empty() && shards.size() == found.size()) return shards;
  return absl::NotFoundError(
      absl::StrFormat("%s: consolidated.%02d.pth is missing", folder.string(), shards.size()));
}

class MetaReader {
 public:
  MetaReader(fs::path folder, MetaParams params)
      : folder_(std::move(folder)), params_(std::move(params)) {}

  absl::StatusOr<TorchModel> read(const std::vector<fs::path>& shards) {
    for (const fs::path& shard : shards) {
      auto file = TorchFile::open(shard);
      if (!file.ok()) return file.status();
      model_.files.push_back(*std::move(file));
    }
    if (auto status = read_vocabulary(); !status.ok()) return status;
    if (auto status = add_tensors(); !status.ok()) return status;
    if (auto status = refuse_others(); !status.ok()) return status;
    describe();
    return std::move(model_);
  }

 private:
  absl::Status invalid(const TorchFile& file, const std::string& name, const std::string& fault) {
    return absl::InvalidArgumentError(
        absl::StrCat(file.path().string(), ": tensor ", shown(name), ": ", fault));
  }
  int64_t shards() const { return static_cast<int64_t>(model_.files.size()); }

  // Determines how the embedding is split, and the size of the vocabulary if params.json does not
  // state it.
  absl::Status read_vocabulary() {
    ModelConfig& config = params_.config;
    const TorchFile& first = model_.files.front();
    const auto found = first.tensors().find(kMetaEmbedding);
    if (found == first.tensors().end()) return invalid(first, kMetaEmbedding, "is missing");
    const std::vector<int64_t>& shape = found->second.shape;
    int64_t vocab = 0;
    if (shape.size() == 2 && shape[1] == config.hidden) {
      vocab = shape[0] * shards();
    } else if (shape.size() == 2 && shape[1] * shards() == config.hidden) {
      vocab = shape[0];
      embedding_division_ = Division::kColumns;
    }
    constexpr int64_t kMaxVocab = 1 << 24;
    if (vocab < 1 || vocab > kMaxVocab || (config.vocab > 0 && vocab != config.vocab)) {
      return invalid(first, kMetaEmbedding,
                     absl::StrCat("expected a part of [",
                                  config.vocab > 0 ? absl::StrCat(config.vocab) : "vocabulary",
                                  ", ", config.hidden, "] divided by ", shards(), ", found [",
                                  absl::StrJoin(shape, ", "), "]"));
    }
    config.vocab = static_cast<int32_t>(vocab);
    return absl::OkStatus();
  }

  // Returns the shape of the part of `tensor` that each shard holds.
  absl::StatusOr<std::vector<int64_t>> part_shape(const ModelTensor& tensor,
                                                  Division division) const {
    std::vector<int64_t> shape = tensor.shape;
    if (division == Division::kCopies) return shape;
    int64_t& divided = shape[division == Division::kRows ? 0 : 1];
    if (divided % shards() != 0) {
      return absl::InvalidArgumentError(absl::StrCat(folder_.string(), ": ", shards(),
                                                     " shards cannot hold equal parts of ",
                                                     tensor.meta_name, ", ", divided));
    }
    divided /= shards();
    return shape;
  }

  absl::StatusOr<JoinedTensor> join(const ModelTensor& tensor) {
    Division division = tensor.division;
    if (division == Division::kVocabulary) division = embedding_division_;
    const auto shape = part_shape(tensor, division);
    if (!shape.ok()) return shape.status();
    JoinedTensor joined;
    joined.side_by_side = division == Division::kColumns;
    joined.head_dim = tensor.is_rotated ? params_.config.head_dim : 0;
    for (const TorchFile& file : model_.files) {
      const auto found = file.tensors().find(tensor.meta_name);
      if (found == file.tensors().end()) return invalid(file, tensor.meta_name, "is missing");
      const TorchTensor& part = found->second;
      auto status = check_tensor(file.path(), tensor.meta_name, part, *shape);
      if (!status.ok()) return status;
      joined.parts.push_back(&part);
      if (part.dtype == joined.dtype()) continue;
      return invalid(file, tensor.meta_name,
                     absl::StrCat("expected ", joined.parts.front()->type,
                                  " as in the first shard, found ", part.type));
    }
    if (division != Division::kCopies) return joined;
    return join_copies(tensor, joined);
  }

  // Returns the first of several copies, all of which must be equal.
  absl::StatusOr<JoinedTensor> join_copies(const ModelTensor& tensor, const JoinedTensor& copies) {
    const JoinedTensor first{{copies.parts.front()}};
    for (size_t i = 1; i < copies.parts.size(); ++i) {
      if (is_same(first, {{copies.parts[i]}})) continue;
      return invalid(model_.files[i], tensor.meta_name, "differs from the one of the first shard");
    }
    return first;
  }

  absl::Status add_tensors() {
    for (const ModelTensor& tensor : model_tensors(params_.config)) {
      expected_.insert(tensor.meta_name);
      if (tensor.name == kHeadName && lacks(tensor.meta_name)) {
        decide_head(true, "there is no output.weight");
        continue;
      }
      auto joined = join(tensor);
      if (!joined.ok()) return joined.status();
      if (tensor.name == kHeadName && is_tied(*joined)) continue;
      model_.add(tensor.name, tensor.shape, *std::move(joined));
    }
    return absl::OkStatus();
  }

  bool lacks(const std::string& name) const {
    return std::ranges::none_of(
        model_.files, [&](const TorchFile& file) { return file.tensors().contains(name); });
  }

  // Relies on the embedding being the first tensor of the model.
  bool is_tied(const JoinedTensor& head) {
    const bool is_tied = is_same(head, model_.joined.front());
    decide_head(is_tied, is_tied ? "output.weight is the embedding bit by bit"
                                 : "output.weight differs from the embedding");
    return is_tied;
  }
  void decide_head(bool is_tied, const std::string& reason) {
    params_.config.tied_head = is_tied;
    params_.decisions.push_back(absl::StrCat(is_tied ? "tied" : "own", " head: ", reason));
  }

  absl::Status refuse_others() {
    for (const TorchFile& file : model_.files) {
      for (const auto& [name, tensor] : file.tensors()) {
        // Skips the tables of rotary angles, which the engine computes from rope_theta.
        if (expected_.contains(name) || name.ends_with("rope.freqs")) continue;
        return invalid(file, name,
                       absl::StrCat("is not part of a plain Llama of ", params_.config.layers,
                                    " layers (as params.json describes it)"));
      }
    }
    return absl::OkStatus();
  }

  void describe() {
    params_.config.name = folder_name(folder_);
    choose_meta_tokens(params_.config.name, params_);
    model_.inputs.push_back(folder_ / "params.json");
    for (const TorchFile& file : model_.files) model_.inputs.push_back(file.path());
    add_side_files();
    model_.family = shards() == 1 ? "Meta (1 file)"
                                  : absl::StrCat("Meta (", shards(), " model-parallel shards)");
    model_.config = std::move(params_.config);
    model_.decisions = std::move(params_.decisions);
  }

  void add_side_files() {
    const ModelConfig& config = params_.config;
    if (config.bos_token) {
      const nlohmann::json generation = {{"bos_token_id", *config.bos_token},
                                         {"eos_token_id", config.eos_tokens}};
      model_.side_files.push_back(
          {.name = "generation_config.json", .content = generation.dump(2) + "\n"});
    }
    const fs::path tokenizer = folder_ / "tokenizer.model";
    std::error_code ignored;
    if (!fs::is_regular_file(tokenizer, ignored)) {
      params_.decisions.push_back("no tokenizer: there is no tokenizer.model beside params.json");
      return;
    }
    model_.side_files.push_back({.name = "tokenizer.model", .copy_of = tokenizer});
    model_.inputs.push_back(tokenizer);
  }

  fs::path folder_;
  MetaParams params_;
  TorchModel model_;
  Division embedding_division_ = Division::kRows;
  std::set<std::string> expected_;  // names of Meta's format
};

}  // namespace

absl::StatusOr<std::unique_ptr<Source>> open_meta(const fs::path& folder,
                                                  const SourceOptions& options) {
  const fs::path file = folder / "params.json";
  const auto text = read_file(file, kMaxParamsBytes);
  if (!text.ok()) return text.status();
  auto params = parse_meta_params(*text, file.string(), options);
  if (!params.ok()) return params.status();
  const auto shards = find_shards(folder);
  if (!shards.ok()) return shards.status();
  auto model = MetaReader(folder, *std::move(params)).read(*shards);
  if (!model.ok()) return model.status();
  return std::make_unique<TorchSource>(*std::move(model));
}

}  // namespace kascade::convert
