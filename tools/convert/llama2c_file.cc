#include "tools/convert/llama2c_file.h"

#include <array>
#include <bit>
#include <cstring>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/check.h"
#include "tools/convert/model_sizes.h"
#include "tools/convert/rope_layout.h"

namespace kascade::convert {
namespace {

static_assert(std::endian::native == std::endian::little, "the format is little-endian");

constexpr int32_t kMagic = 0x616b3432;  // "ak42", from version 1 on
constexpr int64_t kSizesBytes = 7 * 4;
constexpr int64_t kHeaderBytes = 256;  // from version 1 on
constexpr int64_t kSharedAt = 8 + kSizesBytes;
constexpr int64_t kGroupAt = kSharedAt + 1;

// Constants that the programs of llama2.c contain and the file does not.
constexpr double kNormEps = 1e-5;
constexpr double kRopeTheta = 10000;
constexpr int32_t kBos = 1;
constexpr int32_t kEos = 2;

absl::Status invalid(const std::string& file, const std::string& fault) {
  return absl::InvalidArgumentError(absl::StrCat(file, ": ", fault));
}

int32_t int32_at(std::span<const std::byte> content, int64_t position) {
  int32_t value = 0;
  std::memcpy(&value, content.data() + position, sizeof(value));
  return value;
}

struct Header {
  int version = 0;
  int64_t bytes = 0;
  int64_t group = 0;  // version 2: number of elements that share a scale
  ModelConfig config{};
};

absl::StatusOr<ModelConfig> read_sizes(std::span<const std::byte> content, int64_t begin,
                                       const std::string& file) {
  const auto value = [&](int64_t index) -> int64_t { return int32_at(content, begin + index * 4); };
  ModelSizes sizes{.layers = value(2),
                   .hidden = value(0),
                   .intermediate = value(1),
                   .heads = value(3),
                   .kv_heads = value(4),
                   .vocab = value(5) < 0 ? -value(5) : value(5),
                   .context = value(6)};
  if (sizes.heads > 0 && sizes.hidden % sizes.heads != 0) {
    return invalid(file, absl::StrCat("dim: expected a multiple of ", sizes.heads, " heads, found ",
                                      sizes.hidden));
  }
  sizes.head_dim = sizes.heads > 0 ? sizes.hidden / sizes.heads : 0;
  auto config = config_of(sizes,
                          {.layers = "n_layers",
                           .hidden = "dim",
                           .intermediate = "hidden_dim",
                           .heads = "n_heads",
                           .kv_heads = "n_kv_heads",
                           .head_dim = "dim / n_heads",
                           .vocab = "vocab_size",
                           .context = "seq_len"},
                          file);
  if (!config.ok()) return config.status();
  if (config->vocab <= kEos) {
    return invalid(
        file, absl::StrCat("vocab_size: expected more than ", kEos, ", found ", config->vocab));
  }
  config->tied_head = value(5) > 0;
  config->norm_eps = kNormEps;
  config->rope_theta = kRopeTheta;
  config->bos_token = kBos;
  config->eos_tokens = {kEos};
  return config;
}

// Reads the header of versions 1 and 2: magic, version, sizes, a byte that is 1 if embedding and
// head are tied, and the group size.
absl::Status read_header_end(std::span<const std::byte> content, const std::string& file,
                             Header& header) {
  if (int32_at(content, 8 + 5 * 4) < 0) {
    return invalid(file, "vocab_size: expected a positive number in this version");
  }
  const auto shared = std::to_integer<int>(content[kSharedAt]);
  if (shared > 1) {
    return invalid(file, absl::StrCat("shared_classifier: expected 0 or 1, found ", shared));
  }
  header.config.tied_head = shared == 1;
  if (header.version == 1) return absl::OkStatus();
  header.group = int32_at(content, kGroupAt);
  if (header.group > 0) return absl::OkStatus();
  return invalid(file, absl::StrCat("group_size: expected at least 1, found ", header.group));
}

absl::StatusOr<Header> read_header(std::span<const std::byte> content, const std::string& file) {
  const auto bytes = static_cast<int64_t>(content.size());
  const bool has_magic = bytes >= 4 && int32_at(content, 0) == kMagic;
  const int64_t needed = has_magic ? kHeaderBytes : kSizesBytes;
  if (bytes < needed) {
    return invalid(file,
                   absl::StrCat("expected a llama2.c header of ", needed, " bytes, found ", bytes));
  }
  Header header;
  header.version = has_magic ? int32_at(content, 4) : 0;
  header.bytes = needed;
  if (has_magic && header.version != 1 && header.version != 2) {
    return absl::UnimplementedError(absl::StrCat(
        file, ": only versions 0, 1 and 2 of llama2.c's format are read, found ", header.version));
  }
  auto config = read_sizes(content, has_magic ? 8 : 0, file);
  if (!config.ok()) return config.status();
  header.config = *std::move(config);
  if (has_magic) {
    if (auto status = read_header_end(content, file, header); !status.ok()) return status;
  }
  return header;
}

// The file stores all layers of one kind of tensor before the next kind.
enum Kind {
  kEmbedding,
  kAttentionNorm,
  kQuery,
  kKey,
  kValue,
  kOutput,
  kMlpNorm,
  kGate,
  kDown,
  kUp,
  kFinalNorm,
  kRotary,  // cosines and sines by position; skipped, because they follow from the configuration
  kHead,
  kKinds
};

struct KindShape {
  std::string name{};  // name of the tensor without the prefix of its layer
  int64_t rows = 0;
  int64_t cols = 0;  // 0 for a vector of `rows` elements
  bool is_per_layer = true;
  bool is_neighbouring = false;

  int64_t elements() const { return cols == 0 ? rows : rows * cols; }
};

std::array<KindShape, kKinds> shapes_of(const ModelConfig& c) {
  return {{
      {"model.embed_tokens.weight", c.vocab, c.hidden, false},
      {"input_layernorm.weight", c.hidden, 0},
      {"self_attn.q_proj.weight", c.q_dim(), c.hidden, true, true},
      {"self_attn.k_proj.weight", c.kv_dim(), c.hidden, true, true},
      {"self_attn.v_proj.weight", c.kv_dim(), c.hidden},
      {"self_attn.o_proj.weight", c.hidden, c.q_dim()},
      {"post_attention_layernorm.weight", c.hidden, 0},
      {"mlp.gate_proj.weight", c.intermediate, c.hidden},
      {"mlp.down_proj.weight", c.hidden, c.intermediate},
      {"mlp.up_proj.weight", c.intermediate, c.hidden},
      {"model.norm.weight", c.hidden, 0, false},
      {"", 2 * int64_t{c.context}, c.head_dim / 2, false},
      {"lm_head.weight", c.vocab, c.hidden, false},
  }};
}

const std::vector<Kind>& order_in_file(int version) {
  static const std::vector<Kind> kFirst = {kEmbedding, kAttentionNorm, kQuery, kKey,  kValue,
                                           kOutput,    kMlpNorm,       kGate,  kDown, kUp,
                                           kFinalNorm, kRotary,        kHead};
  static const std::vector<Kind> kLater = {kAttentionNorm, kMlpNorm, kFinalNorm, kEmbedding,
                                           kQuery,         kKey,     kValue,     kOutput,
                                           kGate,          kDown,    kUp,        kHead};
  return version == 0 ? kFirst : kLater;
}

constexpr Kind kOfLayer[] = {kAttentionNorm, kQuery, kKey, kValue, kOutput,
                             kMlpNorm,       kGate,  kUp,  kDown};

}  // namespace

// Assigns the bytes after the header to the tensors.
class Llama2cLayout {
 public:
  Llama2cLayout(std::string file, const Header& header)
      : file_(std::move(file)), header_(header), shapes_(shapes_of(header.config)) {}

  absl::Status place(int64_t file_bytes) {
    int64_t end = header_.bytes;
    for (const Kind kind : order_in_file(header_.version)) {
      if (kind == kHead && header_.config.tied_head) continue;
      const KindShape& shape = shapes_[kind];
      const int64_t group = group_of(kind);
      if (group > 0 && shape.elements() % group != 0) {
        return invalid(file_,
                       absl::StrCat("group_size: expected a divisor of the ", shape.elements(),
                                    " elements of ", shape.name, ", found ", group));
      }
      begins_[kind] = end;
      end += bytes_of(kind) * (shape.is_per_layer ? header_.config.layers : 1);
    }
    if (end == file_bytes) return absl::OkStatus();
    return invalid(file_, absl::StrCat("expected ", end,
                                       " bytes for the sizes in the header of "
                                       "llama2.c's version ",
                                       header_.version, ", found ", file_bytes));
  }

  // Lists the tensors in the order of layers.
  void list(Llama2cFile& file) const {
    add(kEmbedding, 0, file);
    for (int64_t layer = 0; layer < header_.config.layers; ++layer) {
      for (const Kind kind : kOfLayer) add(kind, layer, file);
    }
    add(kFinalNorm, 0, file);
    if (!header_.config.tied_head) add(kHead, 0, file);
  }

 private:
  int64_t group_of(Kind kind) const { return shapes_[kind].cols == 0 ? 0 : header_.group; }

  int64_t bytes_of(Kind kind) const {
    const int64_t elements = shapes_[kind].elements();
    const int64_t group = group_of(kind);
    return group == 0 ? 4 * elements : elements + 4 * (elements / group);
  }

  void add(Kind kind, int64_t layer, Llama2cFile& file) const {
    const KindShape& shape = shapes_[kind];
    SourceTensor tensor{.name = shape.name, .shape = {shape.rows}};
    if (shape.is_per_layer) tensor.name = absl::StrCat("model.layers.", layer, ".", shape.name);
    if (shape.cols > 0) tensor.shape.push_back(shape.cols);
    file.tensors_.push_back(std::move(tensor));
    file.places_.push_back({.begin = begins_[kind] + layer * bytes_of(kind),
                            .group = group_of(kind),
                            .is_neighbouring = shape.is_neighbouring});
  }

  std::string file_;
  const Header& header_;
  std::array<KindShape, kKinds> shapes_;
  std::array<int64_t, kKinds> begins_{};
};

absl::StatusOr<Llama2cFile> Llama2cFile::parse(std::span<const std::byte> content,
                                               const std::string& name) {
  const auto header = read_header(content, name);
  if (!header.ok()) return header.status();
  Llama2cLayout layout(name, *header);
  if (auto status = layout.place(static_cast<int64_t>(content.size())); !status.ok()) {
    return status;
  }
  Llama2cFile file;
  file.content_ = content;
  file.version_ = header->version;
  file.config_ = header->config;
  layout.list(file);
  return file;
}

void Llama2cFile::read(size_t index, std::span<std::byte> target) const {
  const SourceTensor& tensor = tensors_[index];
  const Place& place = places_[index];
  KASCADE_CHECK(static_cast<int64_t>(target.size()) == tensor.bytes());
  const std::byte* values = content_.data() + place.begin;
  const std::byte* scales = values + tensor.elements();
  const int64_t rows = tensor.shape[0];
  const int64_t cols = tensor.elements() / rows;
  std::byte* out = target.data();
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t from =
        cols * (place.is_neighbouring ? neighbouring_row(row, config_.head_dim) : row);
    if (place.group == 0) {
      std::memcpy(out, values + 4 * from, static_cast<size_t>(4 * cols));
      out += 4 * cols;
      continue;
    }
    // Groups are counted through the whole tensor, so a group may continue in the next row.
    for (int64_t element = from; element < from + cols; ++element, out += 4) {
      float scale = 0;
      std::memcpy(&scale, scales + 4 * (element / place.group), sizeof(scale));
      const float value = scale * static_cast<float>(std::to_integer<int8_t>(values[element]));
      std::memcpy(out, &value, sizeof(value));
    }
  }
}

}  // namespace kascade::convert
