// The interface of a backend: its memory, its weights and the operations of a transformer layer.
// Every backend implements all operations; reference/ defines in plain loops what they mean.
//
// The tensors that an operation takes lie in the memory of its backend (allocate()), unless the
// comment says that they are host memory. Code outside the backend never dereferences backend
// memory: it downloads what it needs. All calls come from one thread, one at a time;
// attach_thread() is the first of them.
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
  // The packed bytes, from which Backend::adopt() makes the matrix again; empty where packed_form()
  // is unset.
  virtual std::span<const std::byte> packed() const { return {}; }

 private:
  int64_t out_features_;
  int64_t in_features_;
  int64_t bytes_;
};

// What matmul() does with its output.
enum class Into { kOverwrite, kAdd };

// What a matrix is used for. Next to int4 layers the output head is int8, because four bits are too
// few for it.
enum class MatrixUse { kLayer, kHead };

// The layout in which pack() writes a matrix. It is the same in every process and on every machine,
// so that packed matrices can be kept in a file.
struct PackedForm {
  std::string name{};  // layout and version, such as "int8-panels-1"
  int64_t bytes = 0;   // size of Matrix::packed(), a multiple of 64
};

// The number formats of a backend's weights and KV cache.
struct Precision {
  WeightFormat weights = WeightFormat::kF32;  // never kAuto
  DType cache = DType::kF32;                  // f32, bf16 or int8
};

constexpr DType default_cache(WeightFormat weights) {
  return weights == WeightFormat::kF32 ? DType::kF32 : DType::kBF16;
}

// The table of token embeddings [vocab, hidden] in the backend's own layout.
class EmbeddingTable {
 public:
  virtual ~EmbeddingTable() = default;
};

// The index arrays of one step in the form that the operations read. They are uploaded once per
// step and read by every layer.
class StepInput {
 public:
  virtual ~StepInput() = default;
};

// A description of the backend for logs and metrics. It does not change.
struct BackendInfo {
  std::string name{};                 // "reference", "cpu"
  std::string device{};               // what the processor calls itself; empty if unknown
  std::string instruction_set{};      // of the kernels: "avx512bf16", "avx512", "avx2", "baseline"
  std::vector<int32_t> device_ids{};  // numbers of the CPUs that the threads may run on, ascending
  int32_t threads = 1;
  std::vector<int32_t> cpus{};          // [threads] CPU that each thread is bound to, or empty
  std::vector<std::string> warnings{};  // each names an option that could not be followed, and why
};

class Backend {
 public:
  virtual ~Backend() = default;
  virtual BackendInfo info() const = 0;
  virtual Precision precision() const = 0;
  // Called once, on the thread that will call the operations; the backend may bind this thread to a
  // CPU or a device. An error means that the operating system refused to bind it. The backend works
  // all the same.
  virtual absl::Status attach_thread() { return absl::OkStatus(); }

  // ---- Memory ----

  // The memory is not initialised, and its rows lie without gaps. Buffer::allocated() is false if
  // the operating system refused the memory.
  virtual Buffer allocate(DType dtype, int64_t rows, int64_t cols) = 0;
  // `host` holds the elements of all rows without gaps, exactly as many bytes as `to` has
  // (CHECKed).
  virtual void upload(std::span<const std::byte> host, Tensor to) = 0;
  virtual void download(Tensor from, std::span<std::byte> host) = 0;
  virtual void copy(Tensor from, Tensor to) = 0;  // f32 tensors of equal shape
  // to[i, :] = from[rows[i], :]; f32. `rows` is host memory.
  virtual void gather_rows(Tensor from, std::span<const int32_t> rows, Tensor to) = 0;

  // ---- Weights ----

  // Concatenates the parts along their rows (q, then k, then v) and packs the result. Parts are
  // f32, bf16, f16 or have blocks, with equal cols, in host memory; the matrix does not refer to
  // them afterwards.
  virtual std::unique_ptr<Matrix> pack(std::span<const Tensor> parts, MatrixUse use) = 0;
  // The form in which pack() lays out these parts, of which only shapes and dtypes are read; unset
  // if its bytes have no meaning outside this process, so that they cannot be kept in a file.
  virtual std::optional<PackedForm> packed_form(std::span<const Tensor> /*parts*/,
                                                MatrixUse /*use*/) const {
    return std::nullopt;
  }
  // Makes a matrix from the bytes that Matrix::packed() returned, perhaps in an earlier process.
  // `packed` is host memory, aligned to 64 bytes and of the size that packed_form() states
  // (CHECKed); of the parts only shapes and dtypes are read. The backend may use `packed` in place,
  // so it must outlive the matrix. Returns null where packed_form() is unset.
  virtual std::unique_ptr<Matrix> adopt(std::span<const std::byte> /*packed*/,
                                        std::span<const Tensor> /*parts*/, MatrixUse /*use*/) {
    return nullptr;
  }
  // `table` is host memory, [vocab, hidden] in f32, bf16, f16 or with blocks. The backend may use
  // it in place, so it must outlive the result.
  virtual std::unique_ptr<EmbeddingTable> adopt_embedding(Tensor table) = 0;

  // ---- A step ----

  // `batch` must outlive the result and not change.
  virtual std::unique_ptr<StepInput> prepare(const Batch& batch) = 0;
  virtual std::unique_ptr<Selection> make_selection() = 0;
  virtual std::unique_ptr<LogitStatistics> make_logit_statistics() = 0;

  // out[r, :] = table[tokens[r], :], f32 [rows, hidden].
  virtual void embed(const EmbeddingTable& table, const StepInput& step, Tensor out) = 0;

  // out f32 [rows, D]: for p < D/2, column p holds cos(position · frequency[p]) and column D/2 + p
  // the sine of the same angle. The angle is computed in f64, because at position 100,000 an f32
  // product is off by hundredths of a radian.
  virtual void rotary_angles(const StepInput& step, std::span<const double> frequencies,
                             Tensor out) = 0;

  // out[r, o] (+)= Σ_i x[r, i] · w[o, i]. x, out f32; x [rows, in], out [rows, out]. With int8 and
  // int4 weights x is quantised as well, row by row.
  virtual void matmul(Tensor x, const Matrix& w, Tensor out, Into into) = 0;

  // out = x · rsqrt(mean(x²) + eps) · weight, per row, in f32; weight f32 [1, cols].
  virtual void rms_norm(Tensor x, Tensor weight, float eps, Tensor out) = 0;

  // The same in place for each head: a head is a run of weight.cols columns of x; weight f32 [1,
  // head_dim], x f32 [rows, heads · head_dim].
  virtual void rms_norm_heads(Tensor x, Tensor weight, float eps) = 0;

  // x[r, i] += bias[i]; x f32 [rows, cols], bias f32 [1, cols].
  virtual void add_bias(Tensor x, Tensor bias) = 0;

  // x *= factor; x f32.
  virtual void scale(Tensor x, float factor) = 0;

  // Rotates the first `heads` heads of each row in place. The rotary layout is half-split:
  // components p and p + D/2 form a pair. `angles` is the output of rotary_angles().
  virtual void rope(Tensor x, int32_t heads, Tensor angles) = 0;

  // Stores keys and values f32 [rows, kv_heads · D] at the step's slots, in the cache's dtype.
  virtual void write_kv(Tensor keys, Tensor values, const StepInput& step, LayerCache cache) = 0;

  // out[r, i] = silu(gate_up[r, i]) · gate_up[r, F + i]; out [rows, F].
  virtual void silu_mul(Tensor gate_up, Tensor out) = 0;

  // Computes softmax(q·kᵀ/√D)·v over each row's key set, for the rows of `tiles`. q, out f32 [batch
  // rows, heads · D]; query head h reads KV head h / (heads / kv_heads).
  virtual void attend(Tensor q, LayerCache cache, const StepInput& step, TileRange tiles,
                      const KeySet& keys, Tensor out) = 0;

  // Scores keys by the attention probabilities that the rows of one tile give them. Row g of
  // `scores`, f32 [kv_heads, ≥ last position + 1], receives the score of every causal key of the
  // tile's last row for KV head g. The probabilities of a row are the softmax over all causal keys
  // of that row; a key after the row's own position adds nothing.
  virtual void pool_scores(Tensor q, LayerCache cache, const StepInput& step, int32_t tile,
                           Pooling pooling, Tensor scores) = 0;

  // Selects, for each tile of the range and each KV head, the budget[tile] candidates with the
  // highest scores, or with options.mass the best candidates up to a share of all scores. Of equal
  // scores the one with the lower index wins. A tile that takes all candidates whatever their
  // scores are (least_keys()) takes them without scoring.
  virtual void select_keys(Tensor q, LayerCache cache, const StepInput& step, TileRange tiles,
                           const SelectOptions& options, Selection& selection) = 0;

  // Selects like select_keys(), but whole pages of `page_size` consecutive keys, ranked by an upper
  // bound on q·k instead of by probabilities (Quest). Let least and largest be the component-wise
  // minimum and maximum of a page's keys. The score of the page is the maximum of Σ_d max(q_d ·
  // least_d, q_d · largest_d) over the rows of the tile and the query heads of the KV head's group.
  // Budgets, candidate_begin and candidate_end are multiples of page_size.
  virtual void select_pages(Tensor q, LayerCache cache, const StepInput& step, TileRange tiles,
                            int32_t page_size, Selection& selection) = 0;

  // Selects no key for any tile of the range: its rows attend only to the sinks and to the keys
  // from candidate_end up to their own position.
  virtual void select_none(LayerCache cache, const StepInput& step, TileRange tiles,
                           Selection& selection) = 0;
};

// Parse the value of a command-line flag; INVALID_ARGUMENT lists the accepted values. For "auto"
// the cache's dtype is unset: it then follows from the weights (default_cache()).
absl::StatusOr<WeightFormat> weight_format_named(std::string_view name);
absl::StatusOr<std::optional<DType>> cache_dtype_named(std::string_view name);

struct CpuThreads {
  int32_t count = 0;  // 0 = one thread per core that this process may use
  bool pin = false;   // bind thread i to the i-th CPU that this process may use
};

struct BackendOptions {
  std::string_view name = "auto";  // auto, reference, cpu, cuda
  WeightFormat weights = WeightFormat::kAuto;
  std::optional<DType> cache{};  // f32, bf16 or int8; unset = default_cache(weights)
  // Of the weight files, the first with blocks if some matrices have blocks; decides what kAuto
  // means: native for blocks, bf16 for bf16 if the machine can, else f32.
  DType checkpoint_dtype = DType::kF32;
  CpuThreads cpu{};  // backend cpu only
};

// UNAVAILABLE: the machine lacks what was asked for (bf16 instructions, a CUDA device).
// FAILED_PRECONDITION: there are fewer CPUs than threads to pin. INVALID_ARGUMENT: the name is
// unknown, or threads are to be pinned for a backend without threads of its own.
absl::StatusOr<std::unique_ptr<Backend>> open_backend(const BackendOptions& options);

// The backend of plain loops, which other backends are tested against and which runs everywhere.
// Weights may be f32, int8, int4 or native; the cache may be f32, bf16 or int8.
std::unique_ptr<Backend> make_reference_backend(WeightFormat weights = WeightFormat::kF32,
                                                std::optional<DType> cache = {});

}  // namespace kascade

#endif  // KASCADE_ENGINE_BACKEND_BACKEND_H_
