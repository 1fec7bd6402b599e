// Speed of the CPU backend's operations on shapes like those of a 1B model (32 / 8 heads of 64).
// Reports GFLOP/s; for decode also GB/s of keys and values read. Not a test.
#include <benchmark/benchmark.h>

#include <string>

#include "engine/backend/cpu/cpu.h"
#include "engine/backend/cpu/panel_kernels.h"
#include "engine/backend/host/host_buffer.h"
#include "tests/support/kernel_cases.h"

namespace kascade::testing {
namespace {

using benchmark::Counter;

Counter per_second(double amount) {
  return Counter(amount, Counter::kIsIterationInvariantRate, Counter::kIs1000);
}

AttentionCase shape_of(int32_t first, int32_t rows, int32_t sequences, bool per_query) {
  AttentionCase shape{.kv_heads = 8, .group = 4, .dim = 64, .block_size = 32};
  shape.sequences.assign(static_cast<size_t>(sequences), {first, rows, per_query});
  return shape;
}

// Multiply-adds of q·kᵀ and p·v for the keys that each row attends to, two operations each.
double operations(const AttentionData& data, const AttentionCase& shape, bool sparse) {
  double keys = 0;
  for (int32_t tile = 0; tile < data.batch.tiles(); ++tile) {
    for (int32_t row = data.batch.tile_start[tile]; row < data.batch.tile_start[tile + 1]; ++row) {
      const int32_t causal = data.batch.positions[row] + 1;
      keys += sparse ? data.batch.budget[tile] + causal - data.batch.candidate_end[tile] : causal;
    }
  }
  return keys * 4 * shape.dim * shape.kv_heads * shape.group;
}

DType dtype_of(int64_t bf16) { return bf16 != 0 ? DType::kBF16 : DType::kF32; }

WeightFormat format_of(DType dtype) {
  return dtype == DType::kBF16 ? WeightFormat::kBF16 : WeightFormat::kF32;
}

void bench_attend(benchmark::State& state, bool per_query, bool sparse) {
  const auto shape =
      shape_of(static_cast<int32_t>(state.range(0)), static_cast<int32_t>(state.range(1)),
               static_cast<int32_t>(state.range(2)), per_query);
  const DType dtype = dtype_of(state.range(3));
  AttentionData data(shape, dtype);
  const auto backend = cpu::make_cpu_backend({.weights = format_of(dtype)});
  const HostBuffer out(DType::kF32, data.batch.rows(), data.width());
  const HostSelection selection = data.random_selection();
  const KeySet keys{sparse ? &selection : nullptr, {}};
  for (auto _ : state) {
    backend->attend(data.q, data.cache, data.step(), data.tiles(), keys, out.view());
  }
  const double work = operations(data, shape, sparse);
  state.counters["FLOP/s"] = per_second(work);
  if (per_query) {
    // Each key and value is read once per group: dim elements for 2 · dim · group operations.
    state.counters["B/s"] =
        per_second(work / 2 / shape.group * static_cast<double>(size_of(dtype)));
  }
}
void attend_prefill_dense(benchmark::State& state) { bench_attend(state, false, false); }
void attend_prefill_sparse(benchmark::State& state) { bench_attend(state, false, true); }
void attend_decode_dense(benchmark::State& state) { bench_attend(state, true, false); }
void attend_decode_sparse(benchmark::State& state) { bench_attend(state, true, true); }

void select_keys(benchmark::State& state) {
  const bool per_query = state.range(1) == 1;
  const auto shape =
      shape_of(static_cast<int32_t>(state.range(0)), static_cast<int32_t>(state.range(1)),
               static_cast<int32_t>(state.range(2)), per_query);
  const DType dtype = dtype_of(state.range(3));
  AttentionData data(shape, dtype);
  const auto backend = cpu::make_cpu_backend({.weights = format_of(dtype)});
  HostSelection selection;
  for (auto _ : state) {
    backend->select_keys(data.q, data.cache, data.step(), data.tiles(), {}, selection);
  }
  // Useful operations: q·kᵀ once.
  state.counters["FLOP/s"] = per_second(operations(data, shape, false) / 2);
}

void matmul(benchmark::State& state) {
  const int64_t rows = state.range(0), in = state.range(1), out = state.range(2);
  const auto format = static_cast<WeightFormat>(state.range(3));
  if (format == WeightFormat::kBF16 && cpu::pick_bf16_kernels() == nullptr) {
    return state.SkipWithError("no bf16 instructions");
  }
  Random random(1);
  const auto backend = cpu::make_cpu_backend({.weights = format});
  const HostBuffer x = normal_matrix(DType::kF32, rows, in, random);
  const HostBuffer plain = normal_matrix(DType::kBF16, out, in, random);
  const Tensor parts[] = {plain.view()};
  const auto weights = backend->pack(parts, MatrixUse::kLayer);
  const HostBuffer y(DType::kF32, rows, out);
  for (auto _ : state) backend->matmul(x.view(), *weights, y.view(), Into::kOverwrite);
  state.SetLabel(std::string(name_of(format)));
  state.counters["FLOP/s"] = per_second(2.0 * static_cast<double>(rows * in * out));
  state.counters["B/s"] = per_second(static_cast<double>(weights->bytes()));
}

// first position, rows, sequences, bf16
const std::vector<std::vector<int64_t>> kPrefill = {{0, 4096}, {512}, {1}, {0, 1}};
const std::vector<std::vector<int64_t>> kDecode = {{2048, 16384}, {1}, {1, 8}, {0, 1}};
BENCHMARK(attend_prefill_dense)->ArgsProduct(kPrefill)->UseRealTime();
BENCHMARK(attend_prefill_sparse)->ArgsProduct(kPrefill)->UseRealTime();
BENCHMARK(attend_decode_dense)->ArgsProduct(kDecode)->UseRealTime();
BENCHMARK(attend_decode_sparse)->ArgsProduct(kDecode)->UseRealTime();
BENCHMARK(select_keys)->ArgsProduct(kPrefill)->ArgsProduct(kDecode)->UseRealTime();
// rows, inputs, outputs, WeightFormat
BENCHMARK(matmul)->ArgsProduct({{1, 8, 128, 512}, {2048}, {8192}, {1, 2, 3, 4}})->UseRealTime();

}  // namespace
}  // namespace kascade::testing

BENCHMARK_MAIN();
