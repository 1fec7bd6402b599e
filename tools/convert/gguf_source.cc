#include "tools/convert/gguf_source.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "engine/backend/block_formats.h"
#include "engine/base/check.h"
#include "engine/model/file.h"
#include "engine/model/json.h"
#include "engine/model/layer_tensors.h"
#include "engine/tokenizer/utf8.h"
#include "tools/convert/gguf_architecture.h"
#include "tools/convert/gguf_config.h"
#include "tools/convert/gguf_fields.h"
#include "tools/convert/gguf_file.h"
#include "tools/convert/gguf_types.h"
#include "tools/convert/gguf_vocabulary.h"
#include "tools/convert/model_sizes.h"
#include "tools/convert/model_tensors.h"
#include "tools/convert/rope_layout.h"

namespace kascade::convert {
namespace {

using nlohmann::json;

// A tensor of the converted model and its source in the file.
struct Entry {
  std::string stored{};  // name of the tensor in the file
  SourceTensor tensor{};
  bool is_neighbouring = false;  // rows are in the neighbouring rotary layout (rope_layout.h)
  const GgufTensor* source = nullptr;
  const GgmlType* type = nullptr;
};

std::vector<Entry> entries_of(const ModelConfig& c, bool is_neighbouring) {
  std::vector<Entry> entries;
  const auto add = [&](const std::string& stored, const std::string& name,
                       std::vector<int64_t> shape, bool is_rotated = false) {
    entries.push_back({.stored = stored,
                       .tensor = {.name = name, .shape = std::move(shape)},
                       .is_neighbouring = is_rotated && is_neighbouring});
  };
  add("token_embd.weight", kEmbeddingName, {c.vocab, c.hidden});
  const std::vector<StoredLayerTensor> table = stored_layer_tensors(c);
  for (int32_t layer = 0; layer < c.layers; ++layer) {
    for (const StoredLayerTensor& tensor : table) {
      const bool is_rotated = tensor.name.starts_with("self_attn.q_proj.") ||
                              tensor.name.starts_with("self_attn.k_proj.");
      add(absl::StrCat("blk.", layer, ".", gguf_layer_tensor(tensor.name)),
          absl::StrCat("model.layers.", layer, ".", tensor.name), tensor.shape, is_rotated);
    }
  }
  add("output_norm.weight", "model.norm.weight", {c.hidden});
  if (!c.tied_head) add("output.weight", kHeadName, {c.vocab, c.hidden});
  return entries;
}

// Finds the source tensor of `entry` in `unused` and removes it from there.
absl::Status match(const std::string& file, std::map<std::string, const GgufTensor*>& unused,
                   Entry& entry) {
  const std::string where = absl::StrCat(file, ": tensor ", shown(entry.stored));
  const auto found = unused.find(entry.stored);
  if (found == unused.end()) return absl::InvalidArgumentError(where + ": is missing");
  entry.source = found->second;
  unused.erase(found);
  // The file lists the innermost dimension first.
  const std::vector<int64_t> shape(entry.source->dimensions.rbegin(),
                                   entry.source->dimensions.rend());
  if (shape != entry.tensor.shape) {
    return absl::InvalidArgumentError(absl::StrCat(where, ": expected shape ",
                                                   absl::StrJoin(entry.tensor.shape, " x "),
                                                   ", found ", absl::StrJoin(shape, " x ")));
  }
  entry.type = find_ggml_type(entry.source->type);
  if (!entry.type) {
    return absl::UnimplementedError(absl::StrCat(
        where, ": ", ggml_type_name(entry.source->type),
        " is not read; supported: F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q4_K, Q5_K, Q6_K; "
        "take a file of the same model in one of these, such as Q8_0, Q6_K or Q4_K_M"));
  }
  if (entry.is_neighbouring && shape.size() == 1 && has_blocks(entry.type->dtype)) {
    return absl::UnimplementedError(absl::StrCat(where, ": a bias must be F32, F16 or BF16, found ",
                                                 ggml_type_name(entry.source->type)));
  }
  // The server keeps only matrices in blocks.
  const bool keep = !has_blocks(entry.type->dtype) || shape.size() == 2;
  entry.tensor.dtype = keep ? entry.type->dtype : DType::kF32;
  return absl::OkStatus();
}

absl::StatusOr<std::vector<Entry>> match_all(const GgufFile& file, const ModelConfig& config) {
  std::map<std::string, const GgufTensor*> unused;
  for (const GgufTensor& tensor : file.tensors()) unused.emplace(tensor.name, &tensor);
  unused.erase("rope_freqs.weight");  // already used for the configuration
  const auto architecture = file.find("general.architecture")->text();
  auto entries =
      entries_of(config, find_gguf_architecture(architecture.value_or(""))->is_neighbouring);
  absl::Status first;
  for (Entry& entry : entries) first.Update(match(file.name(), unused, entry));
  // An unknown tensor is reported before a missing one, because its name says which variant of the
  // model this is.
  if (!unused.empty()) {
    return absl::UnimplementedError(
        absl::StrCat(file.name(), ": tensor ", shown(unused.begin()->first), ": is not one of the ",
                     entries.size(), " tensors of this model, which is a ", config.model_type));
  }
  if (!first.ok()) return first;
  return entries;
}

// Returns the element type that accounts for the most bytes.
std::string main_type(const std::vector<Entry>& entries) {
  std::map<std::string_view, int64_t> bytes;
  for (const Entry& entry : entries) bytes[entry.type->name] += entry.source->bytes;
  const auto most = std::max_element(
      bytes.begin(), bytes.end(), [](const auto& a, const auto& b) { return a.second < b.second; });
  return std::string(most->first);
}

std::string generation_config(const ModelConfig& config) {
  json document = json::object();
  if (config.bos_token) document["bos_token_id"] = *config.bos_token;
  if (config.eos_tokens.size() == 1) document["eos_token_id"] = config.eos_tokens[0];
  if (config.eos_tokens.size() > 1) document["eos_token_id"] = config.eos_tokens;
  return document.dump(2) + "\n";
}

absl::StatusOr<std::vector<SideFile>> side_files_of(const GgufFile& file,
                                                    const ModelConfig& config) {
  auto tokenizer = gguf_tokenizer_json(file);
  if (!tokenizer.ok()) return tokenizer.status();
  std::vector<SideFile> files;
  files.push_back({.name = "tokenizer.json", .content = *std::move(tokenizer)});
  files.push_back({.name = "generation_config.json", .content = generation_config(config)});
  GgufFields fields(file);
  const GgufValue* tokens = file.find("tokenizer.ggml.tokens");
  if (tokens->count() > config.vocab) {
    fields.invalid("tokenizer.ggml.tokens",
                   absl::StrCat("at most the ", config.vocab, " rows of token_embd.weight"),
                   absl::StrCat(tokens->count()));
  }
  if (const auto text = fields.maybe_text("tokenizer.chat_template")) {
    if (bpe::valid_utf8_length(*text) != text->size()) {
      fields.invalid("tokenizer.chat_template", "UTF-8", shown(*text));
    } else {
      files.push_back({.name = "tokenizer_config.json",
                       .content = json({{"chat_template", *text}}).dump(2) + "\n"});
    }
  }
  if (!fields.error().ok()) return fields.error();
  return files;
}

class GgufSource final : public Source {
 public:
  static absl::StatusOr<std::unique_ptr<GgufSource>> make(std::span<const std::byte> content,
                                                          const std::filesystem::path& path,
                                                          const SourceOptions& options);
  // The mapping must exist as long as this object, which refers to its content.
  void keep(MappedFile mapping) { mapping_.emplace(std::move(mapping)); }

  std::string family() const override {
    return absl::StrCat("GGUF v", file_.version(), ", ", main_type(entries_));
  }
  const ModelConfig& config() const override { return config_; }
  const std::vector<SourceTensor>& tensors() const override { return tensors_; }
  absl::Status read(size_t index, std::span<std::byte> target) override;
  std::vector<SideFile> side_files() const override { return side_files_; }
  std::vector<std::filesystem::path> inputs() const override { return {path_}; }
  std::vector<std::string> decisions() const override { return decisions_; }

 private:
  GgufSource(std::filesystem::path path, GgufFile file)
      : path_(std::move(path)), file_(std::move(file)) {}
  void decide(const SourceOptions& options);

  std::filesystem::path path_;
  std::optional<MappedFile> mapping_;
  GgufFile file_;
  ModelConfig config_;
  std::vector<Entry> entries_;
  std::vector<SourceTensor> tensors_;  // [entries]
  std::vector<SideFile> side_files_;
  std::vector<std::string> decisions_;
};

absl::StatusOr<std::unique_ptr<GgufSource>> GgufSource::make(std::span<const std::byte> content,
                                                             const std::filesystem::path& path,
                                                             const SourceOptions& options) {
  auto file = GgufFile::parse(content, path.string());
  if (!file.ok()) return file.status();
  std::unique_ptr<GgufSource> source(new GgufSource(path, *std::move(file)));
  auto config = gguf_config(source->file_);
  if (!config.ok()) return config.status();
  source->config_ = *std::move(config);
  source->config_.name = path.stem().string();
  auto entries = match_all(source->file_, source->config_);
  if (!entries.ok()) return entries.status();
  source->entries_ = *std::move(entries);
  for (const Entry& entry : source->entries_) source->tensors_.push_back(entry.tensor);
  auto side_files = side_files_of(source->file_, source->config_);
  if (!side_files.ok()) return side_files.status();
  source->side_files_ = *std::move(side_files);
  if (auto status = apply_rope_factor(options, source->config_); !status.ok()) return status;
  source->decide(options);
  return source;
}

void GgufSource::decide(const SourceOptions& options) {
  if (const GgufValue* name = file_.find("general.name")) {
    decisions_.push_back(absl::StrCat("general.name ", name->shown()));
  }
  if (options.rope_factor) {
    decisions_.push_back(absl::StrCat("rope factor ", *options.rope_factor, ": as demanded"));
  } else if (config_.rope_scaling && name_of(*config_.rope_scaling) == "llama3") {
    decisions_.push_back(absl::StrCat("rope factor ", factor_of(*config_.rope_scaling),
                                      ": it explains rope_freqs.weight"));
  }
  const GgufValue* add_eos = file_.find("tokenizer.ggml.add_eos_token");
  if (add_eos && add_eos->boolean() == true) {
    decisions_.emplace_back("tokenizer.ggml.add_eos_token is left out: a prompt must not end");
  }
}

absl::Status GgufSource::read(size_t index, std::span<std::byte> target) {
  const Entry& entry = entries_[index];
  KASCADE_CHECK(static_cast<int64_t>(target.size()) == entry.tensor.bytes());
  const std::byte* stored = entry.source->data;
  if (entry.tensor.dtype != entry.type->dtype) {
    dequantize_row(entry.type->dtype, stored, entry.tensor.elements(),
                   reinterpret_cast<float*>(target.data()));
  } else if (!entry.is_neighbouring) {
    std::memcpy(target.data(), stored, target.size());
  } else {
    const int64_t rows = entry.tensor.shape[0];
    const auto row_bytes = static_cast<int64_t>(target.size()) / rows;
    for (int64_t row = 0; row < rows; ++row) {
      const int64_t from = neighbouring_row(row, config_.head_dim);
      std::memcpy(target.data() + row * row_bytes, stored + from * row_bytes,
                  static_cast<size_t>(row_bytes));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<Source>> gguf_source(std::span<const std::byte> content,
                                                    const std::filesystem::path& file,
                                                    const SourceOptions& options) {
  return GgufSource::make(content, file, options);
}

absl::StatusOr<std::unique_ptr<Source>> open_gguf(const std::filesystem::path& file,
                                                  const SourceOptions& options) {
  auto mapping = MappedFile::open(file);
  if (!mapping.ok()) return mapping.status();
  auto source =
      GgufSource::make({mapping->data(), static_cast<size_t>(mapping->bytes())}, file, options);
  if (!source.ok()) return source.status();
  (*source)->keep(*std::move(mapping));
  return source;
}

}  // namespace kascade::convert
