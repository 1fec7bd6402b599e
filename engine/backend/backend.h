// The operations of a transformer layer. Every backend implements all of them; reference.cc states
// their meaning in plain loops. Called from the engine's thread only, one call at a time.
#ifndef KASCADE_ENGINE_BACKEND_BACKEND_H_
#define KASCADE_ENGINE_BACKEND_BACKEND_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/backend/batch.h"
#include "engine/backend/tensor.h"

namespace kascade {

// A weight matrix [out_features, in_features] in the backend's own layout.
class Matrix {
 public:
  Matrix(int64_t out_features, int64_t in_features, int64_t bytes)
      : out_features_(out_features), in_features_(in_features), bytes_(bytes) {}
  virtual ~Matrix() = default;
  int64_t out_features() const { return out_features_; }
  int64_t in_features() const { return in_features_; }
  int64_t bytes() const { return bytes_; }  // memory held
  // All that Backend::adopt() needs; empty where packed_form() is unset.
  virtual std::span<const std::byte> packed() const { return {}; }

 private:
  int64_t out_features_;
  int64_t in_features_;
  int64_t bytes_;
};

enum class Into { kOverwrite, kAdd };

// Four bits are too few for the head: it is int8 beside int4 layers.
enum class MatrixUse { kLayer, kHead };

// How pack() lays a matrix out, where that is the same in every process and on every machine.
struct PackedForm {
  std::string_view name{};  // of layout and its version: "int8-panels-1"
  int64_t bytes = 0;        // of Matrix::packed(); a multiple of 64
};

// What a backend keeps its weights and its KV cache in.
struct Precision {
  WeightFormat weights = WeightFormat::kF32;  // never kAuto
  DType cache = DType::kF32;                  // f32, bf16 or int8
};

constexpr DType default_cache(WeightFormat weights) {
  return weights == WeightFormat::kF32 ? DType::kF32 : DType::kBF16;
}

class Backend {
 public:
  virtual ~Backend() = default;
  virtual std::string_view name() const = 0;  // "reference", "cpu"
  virtual Precision precision() const = 0;
  virtual int32_t threads() const { return 1; }
  // [threads()] the CPUs that its threads are bound to, or none. The first is that of the thread
  // that calls the operations, which its owner binds.
  virtual std::span<const int32_t> cpus() const { return {}; }
  // Of these, those that the system refused to bind a thread to.
  virtual std::span<const absl::Status> refused_cpus() const { return {}; }

  // Stacks the parts on their rows (q over k over v) and packs them. Parts are f32, bf16 or f16
  // with equal cols; they are not needed afterwards.
  virtual std::unique_ptr<Matrix> pack(std::span<const Tensor> parts, MatrixUse use) = 0;

  // Unset where what pack() makes serves this process alone.
  virtual std::optional<PackedForm> packed_form(int64_t /*out_features*/, int64_t /*in_features*/,
                                                MatrixUse /*use*/) const {
    return std::nullopt;
  }
  // The matrix whose packed() these bytes are, of the size that packed_form() says (CHECKed), at a
  // multiple of 64. Reads them where they are: they outlive it. Null where packed_form() is unset.
  virtual std::unique_ptr<Matrix> adopt(std::span<const std::byte> /*packed*/,
                                        int64_t /*out_features*/, int64_t /*in_features*/,
                                        MatrixUse /*use*/) {
    return nullptr;
  }

  // out[r, o] (+)= Σ_i x[r, i] · w[o, i]. x, out f32; x [rows, in], out [rows, out]. With int8 and
  // int4 weights x is quantised as well, row by row.
  virtual void matmul(Tensor x, const Matrix& w, Tensor out, Into into) = 0;

  // out[r, :] = table[ids[r], :]; table any float dtype, out f32.
  virtual void gather_rows(Tensor table, std::span<const int32_t> ids, Tensor out) = 0;

  // out = x · rsqrt(mean(x²) + eps) · weight, per row, in f32; weight f32 [1, cols].
  virtual void rms_norm(Tensor x, Tensor weight, float eps, Tensor out) = 0;

  // Rotates the first `heads` heads of each row in place, half-split layout: components (p,
  // p + D/2). rotation f32 [rows, D]: cos in [0, D/2), sin in [D/2, D).
  virtual void rope(Tensor x, int32_t heads, Tensor rotation) = 0;

  // Stores keys and values f32 [rows, kv_heads · D] at the slots, in the cache's dtype.
  virtual void write_kv(Tensor keys, Tensor values, std::span<const int32_t> slots,
                        LayerCache cache) = 0;

  // out[r, i] = silu(gate_up[r, i]) · gate_up[r, F + i]; out [rows, F].
  virtual void silu_mul(Tensor gate_up, Tensor out) = 0;

  // softmax(q·kᵀ/√D)·v over each row's key set, for the rows of the tiles. q, out f32
  // [batch rows, heads · D]; query head h reads KV head h / (heads / kv_heads).
  virtual void attend(Tensor q, LayerCache cache, const Batch& batch, TileRange tiles,
                      const KeySet& keys, Tensor out) = 0;

  // Pooled probabilities of one tile: scores f32 [kv_heads, ≥ last position + 1] receives in row g
  // the score of every causal key of the tile's last row; keys that a row may not see add nothing.
  // Each probability is that of the softmax over all causal keys of its row.
  virtual void pool_scores(Tensor q, LayerCache cache, const Batch& batch, int32_t tile,
                           Pooling pooling, Tensor scores) = 0;

  // For each tile of the range and KV head the batch.budget[tile] best-scored candidates; equal
  // scores → lower index. Tiles whose budget covers all candidates take them without scoring.
  virtual void select_keys(Tensor q, LayerCache cache, const Batch& batch, TileRange tiles,
                           const SelectOptions& how, Selection& selection) = 0;

  // The same by bounds on q·k instead of probabilities (Quest): keys are chosen by pages of
  // `page_size` consecutive ones. A page's score is the largest that Σ_d max(q_d · least_d, q_d ·
  // largest_d) gets over the rows of the tile and the query heads of the group, least and largest
  // being those of the page's keys, component by component. Budgets, candidate_begin and
  // candidate_end are multiples of page_size.
  virtual void select_pages(Tensor q, LayerCache cache, const Batch& batch, TileRange tiles,
                            int32_t page_size, Selection& selection) = 0;
};

// Of a flag's value; INVALID_ARGUMENT tells what is accepted. "auto" leaves a cache's to the
// weights'.
absl::StatusOr<WeightFormat> weight_format_named(std::string_view name);
absl::StatusOr<std::optional<DType>> cache_dtype_named(std::string_view name);

struct BackendOptions {
  std::string_view name = "auto";  // auto, reference, cpu, cuda
  WeightFormat weights = WeightFormat::kAuto;
  std::optional<DType> cache{};          // f32, bf16 or int8; default_cache() of the weights
  DType checkpoint_dtype = DType::kF32;  // of the weight files: what kAuto starts from
  int32_t head_dim = 64;
  int32_t threads = 0;       // 0 = one per core that this process may use
  bool pin_threads = false;  // thread i on the i-th CPU that this process may use
};

// UNAVAILABLE when the machine lacks what was asked for (no bf16 instructions, no CUDA device);
// FAILED_PRECONDITION: fewer CPUs than threads to pin; INVALID_ARGUMENT for an unknown name, or
// pinned threads of a backend that has none.
absl::StatusOr<std::unique_ptr<Backend>> open_backend(const BackendOptions& options);

// Plain loops: the oracle for the others, and the fallback. Weights f32, int8 or int4; cache f32,
// bf16 or int8.
std::unique_ptr<Backend> make_reference_backend(WeightFormat weights = WeightFormat::kF32,
                                                std::optional<DType> cache = {});

}  // namespace kascade

#endif  // KASCADE_ENGINE_BACKEND_BACKEND_H_
