#include "engine/model/checkpoint.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "engine/base/check.h"
#include "engine/base/digest.h"
#include "engine/model/file.h"
#include "engine/model/json.h"

namespace kascade {
namespace {

constexpr char kEmbedding[] = "model.embed_tokens.weight";
constexpr char kHead[] = "lm_head.weight";
constexpr char kNorm[] = "model.norm.weight";
constexpr int64_t kDigestBytes = 64 << 10;  // bytes at either end of a tensor in the digest

std::string shape_text(const std::vector<int64_t>& shape) {
  return absl::StrCat("[", absl::StrJoin(shape, ", "), "]");
}

absl::Status invalid(const std::string& name, const std::string& expected,
                     const std::string& found) {
  return absl::InvalidArgumentError(
      absl::StrCat("tensor ", name, ": expected ", expected, ", found ", found));
}

// Returns the stored tensors one by one, verified. Tensors left over at the end do not belong to
// the model.
class Taker {
 public:
  explicit Taker(const std::map<std::string, StoredTensor>& stored) : left_(stored) {}

  bool has(const std::string& name) const { return left_.count(name) > 0; }
  // Of the first matrix with blocks, else of all matrices.
  DType dtype() const { return blocks_type_.value_or(matrix_type_.value_or(DType::kF32)); }

  absl::Status take(const std::string& name, const std::vector<int64_t>& shape, Tensor& out) {
    const auto found = left_.find(name);
    if (found == left_.end()) return invalid(name, "it in the checkpoint", "no such tensor");
    const StoredTensor stored = std::move(found->second);
    left_.erase(found);
    if (stored.shape != shape) {
      return invalid(name, absl::StrCat("shape ", shape_text(shape)), shape_text(stored.shape));
    }
    const bool is_matrix = shape.size() == 2;
    const auto dtype = is_matrix ? weight_type(stored.dtype) : float_type(stored.dtype);
    if (!dtype) {
      const char* wanted =
          is_matrix ? "dtype F32, BF16, F16 or a block format of GGUF" : "dtype F32, BF16 or F16";
      return invalid(name, wanted, shown(stored.dtype));
    }
    if (is_matrix) note_matrix(name, *dtype);
    // Tensor has no read-only form; the mapping itself refuses writes.
    void* data = const_cast<std::byte*>(stored.data);
    const int64_t cols = shape.back();
    out = {data, *dtype, is_matrix ? shape.front() : 1, cols, row_elements(*dtype, cols)};
    return absl::OkStatus();
  }

  // Matrices may have several dtypes only if some of them have blocks.
  absl::Status expect_one_dtype() const { return blocks_type_ ? absl::OkStatus() : mixed_; }

  absl::Status expect_nothing_left(const ModelConfig& config) const {
    for (const auto& [name, tensor] : left_) {
      if (is_ignored_tensor(name)) continue;
      return invalid(
          shown(name),
          absl::StrCat("only the tensors of a model of type ", shown(config.model_type), " with ",
                       config.layers, " layers", config.qkv_bias ? "" : " without biases"),
          absl::StrCat("it with shape ", shape_text(tensor.shape)));
    }
    return absl::OkStatus();
  }

 private:
  void note_matrix(const std::string& name, DType dtype) {
    if (has_blocks(dtype) && !blocks_type_) blocks_type_ = dtype;
    if (!matrix_type_) {
      matrix_type_ = dtype;
      first_matrix_ = name;
    }
    if (dtype == *matrix_type_ || !mixed_.ok()) return;
    mixed_ = invalid(
        name, absl::StrCat("dtype ", std::string(name_of(*matrix_type_)), " like ", first_matrix_),
        std::string(name_of(dtype)));
  }

  std::map<std::string, StoredTensor> left_;
  std::optional<DType> matrix_type_;  // dtype of the first matrix taken
  std::optional<DType> blocks_type_;  // of the first matrix with blocks
  std::string first_matrix_;
  absl::Status mixed_;  // names the first matrix of another dtype than the first
};

absl::Status take_tied_table(Taker& taker, const ModelConfig& config, Checkpoint& out) {
  const bool both = taker.has(kEmbedding) && taker.has(kHead);
  const char* name = !taker.has(kEmbedding) && taker.has(kHead) ? kHead : kEmbedding;
  auto status = taker.take(name, {config.vocab, config.hidden}, out.embedding);
  if (!status.ok()) return status;
  out.head = out.embedding;
  if (!both) return absl::OkStatus();
  Tensor copy;
  status = taker.take(kHead, {config.vocab, config.hidden}, copy);
  if (!status.ok()) return status;
  const auto bytes = static_cast<size_t>(copy.rows * copy.stride * size_of(copy.dtype));
  const bool same_dtype = copy.dtype == out.embedding.dtype;
  if (same_dtype && std::memcmp(copy.data, out.embedding.data, bytes) == 0) return absl::OkStatus();
  return invalid(kHead, absl::StrCat("the bytes of ", kEmbedding, " (tie_word_embeddings is true)"),
                 "others");
}

// Takes a stored tensor and divides its rows among the tensors of the layer.
absl::Status take_parts(Taker& taker, int32_t layer, const StoredLayerTensor& entry,
                        LayerTensors& out) {
  Tensor stored;
  const std::string name = absl::StrCat("model.layers.", layer, ".", entry.name);
  if (auto status = taker.take(name, entry.shape, stored); !status.ok()) return status;
  int64_t row = 0;
  for (const StoredPart& part : entry.parts) {
    out.*part.field = stored.slice_rows(row, part.rows);
    row += part.rows;
  }
  return absl::OkStatus();
}

absl::Status take_all(Taker& taker, const ModelConfig& config, Checkpoint& out) {
  absl::Status status;
  if (config.tied_head) {
    status = take_tied_table(taker, config, out);
  } else {
    status = taker.take(kEmbedding, {config.vocab, config.hidden}, out.embedding);
    if (status.ok()) status = taker.take(kHead, {config.vocab, config.hidden}, out.head);
  }
  if (!status.ok()) return status;
  const std::vector<StoredLayerTensor> table = stored_layer_tensors(config);
  for (int32_t layer = 0; layer < config.layers; ++layer) {
    LayerTensors& tensors = out.layers.emplace_back();
    for (const StoredLayerTensor& entry : table) {
      status = take_parts(taker, layer, entry, tensors);
      if (!status.ok()) return status;
    }
  }
  status = taker.take(kNorm, {config.hidden}, out.norm);
  if (status.ok()) status = taker.expect_one_dtype();
  return status.ok() ? taker.expect_nothing_left(config) : status;
}

std::string digest_of(const std::map<std::string, StoredTensor>& tensors) {
  Sha256 sha;
  for (const auto& [name, tensor] : tensors) {
    if (is_ignored_tensor(name)) continue;
    sha.add(absl::StrCat(name, " ", tensor.dtype, " ", shape_text(tensor.shape), "\n"));
    const int64_t part = std::min(tensor.bytes, kDigestBytes);
    sha.add(tensor.data, part);
    sha.add(tensor.data + tensor.bytes - part, part);
  }
  return sha.hex();
}

}  // namespace

void Checkpoint::release(Tensor tensor) const {
  if (files == nullptr) return;
  files->release(tensor.data, tensor.rows * tensor.stride * size_of(tensor.dtype));
}

bool is_ignored_tensor(const std::string& name) { return name.ends_with(".rotary_emb.inv_freq"); }

absl::StatusOr<Checkpoint> open_checkpoint(const std::filesystem::path& directory,
                                           const ModelConfig& config) {
  auto files = Safetensors::open_folder(directory);
  if (!files.ok()) return files.status();
  Checkpoint checkpoint;
  checkpoint.files = *std::move(files);
  Taker taker(checkpoint.files->tensors());
  if (auto status = take_all(taker, config, checkpoint); !status.ok()) {
    return absl::Status(status.code(), absl::StrCat(directory.string(), ": ", status.message()));
  }
  checkpoint.dtype = taker.dtype();
  checkpoint.weights_digest = digest_of(checkpoint.files->tensors());
  return checkpoint;
}

}  // namespace kascade
