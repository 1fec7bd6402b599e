// The commands that measure single operations: attention and matmul.
#include <algorithm>
#include <utility>

#include "engine/attention/kascade.h"
#include "engine/backend/block_formats.h"
#include "engine/backend/host/host_backend.h"
#include "engine/backend/host/host_buffer.h"
#include "engine/base/check.h"
#include "tests/bench/runs.h"
#include "tests/bench/shapes.h"

namespace kascade::bench {
namespace {

// Weights that are read in turn are more than caches hold.
constexpr int64_t kColdBytes = int64_t{256} << 20;

HostBuffer random_rows(int64_t rows, int64_t cols, double deviation) {
  const HostBuffer narrow = random_matrix(rows, cols, deviation, /*seed=*/2);
  HostBuffer out(DType::kF32, rows, cols);
  for (int64_t i = 0; i < rows * cols; ++i) {
    out.view().f32(0)[i] = from_bf16(narrow.view().bf16(0)[i]);
  }
  return out;
}

template <typename Work>
StepTime timed(Clock clock, const Work& work) {
  const double start = seconds_now(clock);
  work();
  return {seconds_now(clock) - start, {}};
}

}  // namespace

absl::Status Runs::attention() {
  const int32_t deepest = *std::ranges::max_element(settings_.depths);
  ModelConfig one = config_;
  one.layers = 1;
  auto contexts = SyntheticContexts::make(one, *backend_, 1, deepest + settings_.length);
  if (!contexts.ok()) return contexts.status();
  for (const int32_t depth : settings_.depths) {
    attention_at(**contexts, depth, settings_.length, settings_.rule == "row");
    attention_at(**contexts, depth, 1, /*per_query=*/true);
  }
  return absl::OkStatus();
}

void Runs::attention_at(SyntheticContexts& contexts, int32_t depth, int32_t rows, bool per_query) {
  ModelConfig one = config_;
  one.layers = 1;
  const std::vector<RowRun> runs = {{depth, rows, per_query}};
  const HostBuffer q = random_rows(rows, config_.q_dim(), 1);
  const HostBuffer out(DType::kF32, rows, config_.q_dim());
  const LayerCache cache = contexts.cache().layer(0);
  const double element = cache_element();
  const auto dense = step_work(one, *dense_, runs, 0, element);
  Measurement base{.command = "attention", .depth = depth, .rows = rows, .ceilings = speeds()};
  const auto measure = [&](const char* what, const char* mode, const StepWork& work,
                           const auto& run) {
    Measurement m = base;
    m.what = what;
    m.mode = mode;
    m.work = work;
    run();
    m.samples = collect(meter_, plan(), [&] { return timed(settings_.clock, run); });
    note(std::move(m));
  };

  const Batch whole = build_rows(contexts, *dense_, runs);
  const TileRange all{0, whole.tiles()};
  const HostStepInput whole_step(whole);
  measure("attend", "dense", {.attention_flops = dense.attention_flops, .kv_bytes = dense.kv_bytes},
          [&] { backend_->attend(q.view(), cache, whole_step, all, {}, out.view()); });

  const Batch batch = build_rows(contexts, *sparse_, runs);
  const TileRange tiles{0, batch.tiles()};
  const HostStepInput step(batch);
  HostSelection selection;
  const SelectOptions options = to_select_options(schedule_.schedule->selection);
  // Keys alone are read for scoring: half of what dense attention reads.
  measure("select", "sparse",
          {.scoring_flops = dense.attention_flops / 2, .kv_bytes = dense.kv_bytes / 2},
          [&] { backend_->select_keys(q.view(), cache, step, tiles, options, selection); });
  double attended = 0;  // by each query head
  for (int32_t tile = 0; tile < batch.tiles(); ++tile) {
    for (int32_t row = batch.tile_start[tile]; row < batch.tile_start[tile + 1]; ++row) {
      attended += batch.candidate_begin[tile] + batch.budget[tile] + batch.positions[row] + 1 -
                  batch.candidate_end[tile];
    }
  }
  const double last = batch.budget.back() + batch.positions.back() + 1 - batch.candidate_end.back();
  const KeySet keys{&selection, {}};
  measure("attend", "sparse",
          {.attention_flops = 4.0 * config_.q_dim() * attended,
           .kv_bytes = 2 * last * config_.kv_dim() * element},
          [&] { backend_->attend(q.view(), cache, step, tiles, keys, out.view()); });
}

void Runs::matmul() {
  const int64_t hidden = config_.hidden;
  matmul_of("qkv", config_.q_dim() + 2 * config_.kv_dim(), hidden);
  matmul_of("attention_out", hidden, config_.q_dim());
  matmul_of("gate_up", int64_t{2} * config_.intermediate, hidden);
  matmul_of("down", hidden, config_.intermediate);
}

void Runs::matmul_of(const std::string& what, int64_t out_features, int64_t in_features) {
  const HostBuffer values =
      random_weights(block_dtype_named(settings_.weights), out_features, in_features, /*seed=*/3);
  const Tensor parts[] = {values.view()};
  std::vector<std::unique_ptr<Matrix>> copies;
  int64_t bytes = 0;
  while (bytes < kColdBytes) {
    copies.push_back(backend_->pack(parts, MatrixUse::kLayer));
    bytes += copies.back()->bytes();
  }
  for (const int32_t rows : {1, 4, 8, 32, 128, 512}) {
    const HostBuffer x = random_rows(rows, in_features, 1);
    const HostBuffer out(DType::kF32, rows, out_features);
    size_t next = 0;
    const auto run = [&] {
      backend_->matmul(x.view(), *copies[next], out.view(), Into::kOverwrite);
      next = (next + 1) % copies.size();
    };
    run();
    Measurement m{.command = "matmul", .what = what, .mode = "-", .rows = rows};
    m.ceilings = speeds();
    m.work.matmul_flops = 2.0 * static_cast<double>(rows * in_features * out_features);
    m.work.weight_bytes = static_cast<double>(copies.front()->bytes());
    m.samples = collect(meter_, plan(), [&] { return timed(settings_.clock, run); });
    note(std::move(m));
  }
}

}  // namespace kascade::bench
