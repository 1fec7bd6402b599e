#include "engine/backend/cpu/cpu.h"

#include <pthread.h>

#include <algorithm>
#include <optional>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/backend/cpu/affinity.h"
#include "engine/backend/cpu/convert_row.h"
#include "engine/backend/cpu/cores.h"
#include "engine/backend/cpu/head_work.h"
#include "engine/backend/cpu/key_selector.h"
#include "engine/backend/cpu/matmul_native.h"
#include "engine/backend/cpu/matmul_onednn.h"
#include "engine/backend/cpu/matmul_panels.h"
#include "engine/backend/cpu/thread_pool.h"
#include "engine/backend/cpu/thread_workspace.h"
#include "engine/backend/host/host_backend.h"
#include "engine/backend/host/host_buffer.h"
#include "engine/backend/quantization.h"
#include "engine/base/check.h"

namespace kascade::cpu {
namespace {

// Rows of one task of a row-wise operation; a smaller task would cost more to share than to
// compute.
constexpr int64_t kFewRows = 8;

int32_t thread_count(const CpuOptions& options) {
  if (!options.cpus.empty()) return static_cast<int32_t>(options.cpus.size());
  if (options.threads > 0) return options.threads;
  return usable_cores(static_cast<int32_t>(std::thread::hardware_concurrency()));
}

class CpuBackend final : public HostBackend {
 public:
  explicit CpuBackend(const CpuOptions& options)
      : precision_{options.weights, options.cache.value_or(default_cache(options.weights))},
        cpus_(options.cpus),
        pool_(thread_count(options), cpus_),
        kernels_(options.kernels != nullptr ? *options.kernels : pick_kernels()),
        f32_matmul_(pool_),
        panel_matmul_(
            options.integer_kernels != nullptr ? *options.integer_kernels : pick_integer_kernels(),
            pick_bf16_kernels(), pool_),
        workspace_(static_cast<size_t>(pool_.threads())) {}

  BackendInfo info() const override {
    BackendInfo info{.name = "cpu",
                     .device = cpu::processor_name("/proc/cpuinfo"),
                     .instruction_set = kernels_.isa,
                     .threads = pool_.threads(),
                     .cpus = cpus_};
    info.device_ids = cpus_.empty() ? allowed_cpus().value_or(std::vector<int32_t>{}) : cpus_;
    for (const absl::Status& refused : pool_.refused()) {
      info.warnings.push_back(absl::StrCat("pin_threads: ", refused.message()));
    }
    return info;
  }
  Precision precision() const override { return precision_; }
  absl::Status attach_thread() override {
    return cpus_.empty() ? absl::OkStatus() : bind_thread(pthread_self(), cpus_.front());
  }

  std::unique_ptr<Matrix> pack(std::span<const Tensor> parts, MatrixUse use) override {
    if (precision_.weights == WeightFormat::kNative) return native_matmul_.pack(parts);
    if (precision_.weights == WeightFormat::kF32) return f32_matmul_.pack(parts);
    return panel_matmul_.pack(parts, format_of(use));
  }

  std::optional<PackedForm> packed_form(std::span<const Tensor> parts,
                                        MatrixUse use) const override {
    if (precision_.weights == WeightFormat::kNative) return MatmulNative::packed_form(parts);
    // oneDNN does not promise a stable layout.
    if (precision_.weights == WeightFormat::kF32) return std::nullopt;
    return MatmulPanels::packed_form(parts, format_of(use));
  }

  std::unique_ptr<Matrix> adopt(std::span<const std::byte> packed, std::span<const Tensor> parts,
                                MatrixUse use) override {
    if (precision_.weights == WeightFormat::kNative) return MatmulNative::adopt(packed, parts);
    if (precision_.weights == WeightFormat::kF32) return nullptr;
    return MatmulPanels::adopt(packed, parts, format_of(use));
  }

  void matmul(Tensor x, const Matrix& w, Tensor out, Into into) override {
    if (precision_.weights == WeightFormat::kNative) return native_matmul_.run(x, w, out, into);
    if (precision_.weights == WeightFormat::kF32) return f32_matmul_.run(x, w, out, into);
    panel_matmul_.run(x, w, out, into);
  }

  void embed(const EmbeddingTable& embedding, const StepInput& step, Tensor out) override {
    const Tensor table = static_cast<const HostEmbedding&>(embedding).table();
    const std::vector<int32_t>& tokens = batch_of(step).tokens;
    for_rows(static_cast<int64_t>(tokens.size()), [&](int64_t row) {
      convert_row(kernels_, table, tokens[row], out.slice_rows(row, 1), 0);
    });
  }

  void rms_norm(Tensor x, Tensor weight, float eps, Tensor out) override {
    for_rows(x.rows, [&](int64_t row) {
      kernels_.rms_norm(x.f32(row), weight.f32(0), eps, x.cols, out.f32(row));
    });
  }

  void rms_norm_heads(Tensor x, Tensor weight, float eps) override {
    for_rows(x.rows, [&](int64_t row) {
      for (float* head = x.f32(row); head < x.f32(row) + x.cols; head += weight.cols) {
        kernels_.rms_norm(head, weight.f32(0), eps, weight.cols, head);
      }
    });
  }

  void add_bias(Tensor x, Tensor bias) override {
    for_rows(x.rows, [&](int64_t row) { kernels_.add(x.f32(row), bias.f32(0), x.cols); });
  }

  void scale(Tensor x, float factor) override {
    for_rows(x.rows, [&](int64_t row) { kernels_.scale(x.f32(row), factor, x.cols); });
  }

  void rope(Tensor x, int32_t heads, Tensor rotation) override {
    const auto dim = static_cast<int32_t>(rotation.cols);
    for_rows(x.rows,
             [&](int64_t row) { kernels_.rope(x.f32(row), heads, dim, rotation.f32(row)); });
  }

  void write_kv(Tensor keys, Tensor values, const StepInput& step, LayerCache cache) override {
    const std::vector<int32_t>& slots = batch_of(step).slots;
    const int64_t dim = cache.keys.cols;
    for_rows(static_cast<int64_t>(slots.size()), [&](int64_t row, int32_t worker) {
      const int32_t block = slots[row] / cache.block_size, offset = slots[row] % cache.block_size;
      for (int32_t g = 0; g < cache.kv_heads; ++g) {
        const int64_t to = cache.row(block, g, offset);
        convert_row(kernels_, keys.slice_cols(g * dim, dim), row, cache.keys, to);
        convert_row(kernels_, values.slice_cols(g * dim, dim), row, cache.values, to);
        if (!cache.has_int4_keys()) continue;
        kernels_.write_int4_key(keys.f32(row) + g * dim, dim, offset % kInt4KeyPanel,
                                cache.int4_panel(block, g, offset),
                                workspace_[static_cast<size_t>(worker)].kernel(dim));
      }
    });
  }

  void silu_mul(Tensor gate_up, Tensor out) override {
    for_rows(out.rows, [&](int64_t row) {
      const float* gate = gate_up.f32(row);
      kernels_.silu_mul(gate, gate + out.cols, out.cols, out.f32(row));
    });
  }

  void attend(Tensor q, LayerCache cache, const StepInput& step, TileRange tiles,
              const KeySet& keys, Tensor out) override {
    const Batch& batch = batch_of(step);
    const int64_t heads = int64_t{tiles.count} * cache.kv_heads;
    if (can_share_rows(cache) && heads < kManyPerThread * pool_.threads()) {
      return attend_in_parts(q, cache, batch, tiles, keys, out);
    }
    for_tiles(tiles.count, cache.kv_heads,
              [&](int32_t index, int32_t g, ThreadWorkspace& workspace) {
                attend_head(head_work(q, cache, batch, tiles, index, g, keys, out), out.stride,
                            workspace);
              });
  }

  void pool_scores(Tensor q, LayerCache cache, const StepInput& step, int32_t tile, Pooling pooling,
                   Tensor scores) override {
    selector_.pool_scores({q, cache, batch_of(step), {tile, 1}}, pooling, scores);
  }

  void select_keys(Tensor q, LayerCache cache, const StepInput& step, TileRange tiles,
                   const SelectOptions& options, Selection& selection) override {
    selector_.select_keys({q, cache, batch_of(step), tiles}, options, host_selection(selection));
  }

  void select_pages(Tensor q, LayerCache cache, const StepInput& step, TileRange tiles,
                    int32_t page_size, Selection& selection) override {
    selector_.select_pages({q, cache, batch_of(step), tiles}, page_size, host_selection(selection));
  }

 private:
  PanelFormat format_of(MatrixUse use) const {
    if (precision_.weights == WeightFormat::kBF16) return PanelFormat::kBF16;
    const bool int4 = precision_.weights == WeightFormat::kInt4 && use != MatrixUse::kHead;
    return int4 ? PanelFormat::kInt4 : PanelFormat::kInt8;
  }

  struct Part {
    HeadWork work;
    int32_t index;
    int32_t count;
  };

  bool can_share_rows(LayerCache cache) const {
    return kernels_.attend_part != nullptr && cache.keys.dtype != DType::kF32;
  }

  void attend_head(const HeadWork& work, int64_t out_stride, ThreadWorkspace& workspace) const {
    kernels_.attend(work.queries, work.rows, work.keys, work.out, out_stride,
                    workspace.kernel(kernels_.workspace_size(work.queries, work.rows.format, 0)));
  }

  void attend_in_parts(Tensor q, LayerCache cache, const Batch& batch, TileRange tiles,
                       const KeySet& keys, Tensor out) {
    parts_.clear();
    for (int32_t index = 0; index < tiles.count; ++index) {
      for (int32_t g = 0; g < cache.kv_heads; ++g) {
        const HeadWork work = head_work(q, cache, batch, tiles, index, g, keys, out);
        const int32_t count = work.parts();
        for (int32_t part = 0; part < count; ++part) parts_.push_back({work, part, count});
      }
    }
    const auto items = static_cast<int64_t>(parts_.size());
    if (items == 0) return;
    const int64_t size = kernels_.partial_size(parts_[0].work.queries);
    float* partials = at_least(partials_, items * size);
    const auto workspace_of = [&](const HeadWork& work, int32_t worker) {
      return workspace_[static_cast<size_t>(worker)].kernel(
          kernels_.workspace_size(work.queries, work.rows.format, 0));
    };
    pool_.run(items, [&](int64_t item, int32_t worker) {
      const auto& [work, index, count] = parts_[static_cast<size_t>(item)];
      if (count == 1) {
        return attend_head(work, out.stride, workspace_[static_cast<size_t>(worker)]);
      }
      kernels_.attend_part(work.queries, work.rows, work.keys, index * kKeySplit,
                           workspace_of(work, worker), partials + item * size);
    });
    for (int64_t item = 0; item < items; ++item) {
      const auto& [work, index, count] = parts_[static_cast<size_t>(item)];
      if (count == 1 || index > 0) continue;
      kernels_.merge_parts(work.queries, partials + item * size, count, workspace_of(work, 0),
                           work.out);
    }
  }

  template <typename Work>
  void for_rows(int64_t rows, const Work& work) {
    const int64_t runs = (rows + kFewRows - 1) / kFewRows;
    pool_.run(runs, [&](int64_t run, int32_t worker) {
      const int64_t end = std::min(rows, (run + 1) * kFewRows);
      for (int64_t row = run * kFewRows; row < end; ++row) {
        if constexpr (std::is_invocable_v<Work, int64_t, int32_t>) {
          work(row, worker);
        } else {
          work(row);
        }
      }
    });
  }

  template <typename Work>
  void for_tiles(int32_t tiles, int32_t kv_heads, const Work& work) {
    pool_.run(int64_t{tiles} * kv_heads, [&](int64_t item, int32_t worker) {
      work(static_cast<int32_t>(item / kv_heads), static_cast<int32_t>(item % kv_heads),
           workspace_[static_cast<size_t>(worker)]);
    });
  }

  Precision precision_;
  std::vector<int32_t> cpus_;
  ThreadPool pool_;
  const Kernels& kernels_;
  MatmulOneDnn f32_matmul_;
  MatmulPanels panel_matmul_;
  MatmulNative native_matmul_{f32_matmul_, panel_matmul_};
  std::vector<ThreadWorkspace> workspace_;  // [threads]
  std::vector<Part> parts_{};               // of one call of attend_in_parts()
  HostBuffer partials_{};
  KeySelector selector_{kernels_, pool_, workspace_};
};

}  // namespace

std::unique_ptr<Backend> make_cpu_backend(const CpuOptions& options) {
  return std::make_unique<CpuBackend>(options);
}

}  // namespace kascade::cpu
