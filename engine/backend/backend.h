// Memory and the operations of a transformer layer. Every backend implements all of them;
// reference/ states their meaning in plain loops.
//
// Tensors that operations take lie in the memory of that backend (allocate()), unless a parameter
// is called host memory. Host code sees what it downloads and nothing else. All calls come from one
// thread, one at a time; attach_thread() is the first of them.
#ifndef KASCADE_ENGINE_BACKEND_BACKEND_H_
#define KASCADE_ENGINE_BACKEND_BACKEND_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/backend/batch.h"
#include "engine/backend/layer_cache.h"
#include "engine/backend/logit_statistics.h"
#include "engine/backend/selection.h"
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

// Four bits are too few for the output head: it is int8 beside int4 layers.
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

// The table of token embeddings [vocab, hidden], as a backend keeps it.
class EmbeddingTable {
 public:
  virtual ~EmbeddingTable() = default;
};

// The index arrays of one step in the backend's own form: uploaded once, read by every layer.
class StepInput {
 public:
  virtual ~StepInput() = default;
};

// What a backend computes with, for people and metrics; constant.
struct BackendInfo {
  std::string name{};  // "reference", "cpu"
  int32_t threads = 1;
  std::vector<int32_t> cpus{};          // [threads] that they are bound to, or empty
  std::vector<std::string> warnings{};  // what did not go as the options ask, and why
};

class Backend {
 public:
  virtual ~Backend() = default;
  virtual BackendInfo info() const = 0;
  virtual Precision precision() const = 0;
  // Called once, on the thread that will call the operations, which the backend may bind to a
  // processor or a device. An error means that the system refused; everything works all the same.
  virtual absl::Status attach_thread() { return absl::OkStatus(); }

  // ---- Memory ----

  // Not initialised; rows lie without gaps. Buffer::allocated() is false if the system refuses.
  virtual Buffer allocate(DType dtype, int64_t rows, int64_t cols) = 0;
  // `host`: the elements of all rows without gaps, exactly as many bytes as `to` has (CHECKed).
  virtual void upload(std::span<const std::byte> host, Tensor to) = 0;
  virtual void download(Tensor from, std::span<std::byte> host) = 0;
  virtual void copy(Tensor from, Tensor to) = 0;  // f32, of one shape
  // to[i, :] = from[rows[i], :]; f32. `rows` is host memory.
  virtual void gather_rows(Tensor from, std::span<const int32_t> rows, Tensor to) = 0;

  // ---- Weights ----

  // Stacks the parts on their rows (q over k over v) and packs them. Parts are f32, bf16 or f16
  // with equal cols, in host memory; they are not needed afterwards.
  virtual std::unique_ptr<Matrix> pack(std::span<const Tensor> parts, MatrixUse use) = 0;
  // Unset where what pack() makes serves this process alone.
  virtual std::optional<PackedForm> packed_form(int64_t /*out_features*/, int64_t /*in_features*/,
                                                MatrixUse /*use*/) const {
    return std::nullopt;
  }
  // The matrix whose packed() these bytes are: host memory at a multiple of 64, of the size that
  // packed_form() says (CHECKed), which must outlive the matrix, as it may be used in place. Null
  // where packed_form() is unset.
  virtual std::unique_ptr<Matrix> adopt(std::span<const std::byte> /*packed*/,
                                        int64_t /*out_features*/, int64_t /*in_features*/,
                                        MatrixUse /*use*/) {
    return nullptr;
  }
  // `table`: [vocab, hidden], f32, bf16 or f16, host memory, which must outlive the result, as it
  // may be used in place.
  virtual std::unique_ptr<EmbeddingTable> adopt_embedding(Tensor table) = 0;

  // ---- A step ----

  // `batch` must outlive the result and not change.
  virtual std::unique_ptr<StepInput> prepare(const Batch& batch) = 0;
  virtual std::unique_ptr<Selection> make_selection() = 0;
  virtual std::unique_ptr<LogitStatistics> make_logit_statistics() = 0;

  // out[r, :] = table[tokens[r], :], f32 [rows, hidden].
  virtual void embed(const EmbeddingTable& table, const StepInput& step, Tensor out) = 0;

  // out f32 [rows, D]: cos(position · frequency[p]) in column p, sin in D/2 + p, p < D/2, computed
  // in f64: at position 100,000 an f32 product is off by hundredths of a radian.
  virtual void rotary_angles(const StepInput& step, std::span<const double> frequencies,
                             Tensor out) = 0;

  // out[r, o] (+)= Σ_i x[r, i] · w[o, i]. x, out f32; x [rows, in], out [rows, out]. With int8 and
  // int4 weights x is quantised as well, row by row.
  virtual void matmul(Tensor x, const Matrix& w, Tensor out, Into into) = 0;

  // out = x · rsqrt(mean(x²) + eps) · weight, per row, in f32; weight f32 [1, cols].
  virtual void rms_norm(Tensor x, Tensor weight, float eps, Tensor out) = 0;

  // Rotates the first `heads` heads of each row in place, half-split layout: components (p,
  // p + D/2). `angles`: of rotary_angles().
  virtual void rope(Tensor x, int32_t heads, Tensor angles) = 0;

  // Stores keys and values f32 [rows, kv_heads · D] at the step's slots, in the cache's dtype.
  virtual void write_kv(Tensor keys, Tensor values, const StepInput& step, LayerCache cache) = 0;

  // out[r, i] = silu(gate_up[r, i]) · gate_up[r, F + i]; out [rows, F].
  virtual void silu_mul(Tensor gate_up, Tensor out) = 0;

  // softmax(q·kᵀ/√D)·v over each row's key set, for the rows of the tiles. q, out f32
  // [batch rows, heads · D]; query head h reads KV head h / (heads / kv_heads).
  virtual void attend(Tensor q, LayerCache cache, const StepInput& step, TileRange tiles,
                      const KeySet& keys, Tensor out) = 0;

  // Pooled probabilities of one tile: scores f32 [kv_heads, ≥ last position + 1] receives in row g
  // the score of every causal key of the tile's last row; keys that a row may not see add nothing.
  // Each probability is that of the softmax over all causal keys of its row.
  virtual void pool_scores(Tensor q, LayerCache cache, const StepInput& step, int32_t tile,
                           Pooling pooling, Tensor scores) = 0;

  // For each tile of the range and KV head the budget[tile] best-scored candidates; equal scores →
  // lower index. Tiles whose budget covers all candidates take them without scoring.
  virtual void select_keys(Tensor q, LayerCache cache, const StepInput& step, TileRange tiles,
                           const SelectOptions& options, Selection& selection) = 0;

  // The same by bounds on q·k instead of probabilities (Quest): keys are chosen by pages of
  // `page_size` consecutive ones. A page's score is the largest that Σ_d max(q_d · least_d, q_d ·
  // largest_d) gets over the rows of the tile and the query heads of the group, least and largest
  // being those of the page's keys, component by component. Budgets, candidate_begin and
  // candidate_end are multiples of page_size.
  virtual void select_pages(Tensor q, LayerCache cache, const StepInput& step, TileRange tiles,
                            int32_t page_size, Selection& selection) = 0;

  // No keys for any tile of the range: its rows attend to the sinks and their own block alone.
  virtual void select_none(LayerCache cache, const StepInput& step, TileRange tiles,
                           Selection& selection) = 0;
};

// Of a flag's value; INVALID_ARGUMENT tells what is accepted. "auto" leaves a cache's to the
// weights'.
absl::StatusOr<WeightFormat> weight_format_named(std::string_view name);
absl::StatusOr<std::optional<DType>> cache_dtype_named(std::string_view name);

// Threads of the CPU backend.
struct CpuThreads {
  int32_t count = 0;  // 0 = one per core that this process may use
  bool pin = false;   // thread i on the i-th CPU that this process may use
};

struct BackendOptions {
  std::string_view name = "auto";  // auto, reference, cpu, cuda
  WeightFormat weights = WeightFormat::kAuto;
  std::optional<DType> cache{};          // f32, bf16 or int8; default_cache() of the weights
  DType checkpoint_dtype = DType::kF32;  // of the weight files: what kAuto starts from
  CpuThreads cpu{};                      // backend cpu only
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
