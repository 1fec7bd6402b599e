// Speed of the attention kernels by themselves: one call on one thread for one KV head of group 4,
// timed in processor time, with the share of what the processor can do at best, measured just
// before. Not a test. Arguments: keys before the tile, head dim, set of kernels (0 is the best).
#include <benchmark/benchmark.h>
#include <time.h>

#include <algorithm>
#include <array>
#include <numeric>
#include <vector>

#include "engine/backend/cpu/kernels.h"
#include "engine/backend/host/host_buffer.h"
#include "engine/backend/host/select.h"
#include "tests/bench/ceiling_loops.h"
#include "tests/support/kernel_cases.h"

namespace kascade::testing {
namespace {

using benchmark::Counter;

constexpr int32_t kGroup = 4, kRows = 32, kBlockSize = 32;
constexpr int64_t kCacheBytes = int64_t{128} << 20;  // more than caches hold

double thread_seconds() {
  timespec time{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

// bf16 multiply-adds per second of this thread, two operations each; the best of some runs of 2 ms.
double peak() {
  const bench::CeilingLoop loop = bench::bf16_loop();
  if (loop.run == nullptr) return 0;
  constexpr int64_t kIterations = 1 << 16;
  double best = 0;
  for (int run = 0; run < 5; ++run) {
    const double start = thread_seconds();
    loop.run(kIterations);
    best = std::max(best, kIterations * loop.operations / (thread_seconds() - start));
  }
  return best;
}

// Keys and values of as many KV heads as memory that no cache holds, over one block table.
class Head {
 public:
  explicit Head(const benchmark::State& state, int32_t rows)
      : depth_(static_cast<int32_t>(state.range(0))), dim_(static_cast<int32_t>(state.range(1))) {
    const cpu::Kernels* usable[8];
    const int32_t sets = cpu::usable_kernels(usable, 8);
    kernels_ = usable[std::min(static_cast<int32_t>(state.range(2)), sets - 1)];
    rows_ = rows;
    Random random(1);
    blocks_.resize(static_cast<size_t>((depth_ + rows + kBlockSize - 1) / kBlockSize));
    std::iota(blocks_.begin(), blocks_.end(), 0);
    std::shuffle(blocks_.begin(), blocks_.end(), random);
    const int64_t slots = static_cast<int64_t>(blocks_.size()) * kBlockSize;
    kv_heads_ = static_cast<int32_t>(std::max<int64_t>(1, kCacheBytes / (slots * dim_ * 4)));
    keys_ = HostBuffer(DType::kBF16, slots * kv_heads_, dim_);
    values_ = HostBuffer(DType::kBF16, slots * kv_heads_, dim_);
    // One random block, again and again: drawing all would take longer than the runs.
    const HostBuffer some = normal_matrix(DType::kBF16, 1021, dim_, random);
    for (int64_t row = 0; row < slots * kv_heads_; ++row) {
      std::copy_n(some.view().bf16(row % 1021), dim_, keys_.view().bf16(row));
      std::copy_n(some.view().bf16((row + 7) % 1021), dim_, values_.view().bf16(row));
    }
    q_ = normal_matrix(DType::kF32, rows, kGroup * dim_, random, 1.5f);
    out_ = HostBuffer(DType::kF32, rows, kGroup * dim_);
    std::vector<int32_t> all(static_cast<size_t>(depth_));
    std::iota(all.begin(), all.end(), 0);
    for (std::vector<int32_t>& list : chosen_) {
      std::sample(all.begin(), all.end(), std::back_inserter(list), depth_ / 10, random);
    }
  }

  cpu::KeyList dense() const { return {.own_end = depth_ + rows_}; }
  // A tenth of the keys, others with each call: the same ones would soon lie in a cache.
  cpu::KeyList gathered() {
    const std::vector<int32_t>& list = chosen_[static_cast<size_t>(++lists_) % kLists];
    return {0, list.data(), static_cast<int32_t>(list.size()), depth_, depth_ + rows_};
  }
  cpu::KeyList list(bool sparse) { return sparse ? gathered() : dense(); }
  const cpu::Kernels& kernels() const { return *kernels_; }

  void attend(const cpu::KeyList& list) {
    kernels_->attend(queries(), next_cache(), list, out_.view().f32(0), kGroup * dim_, workspace());
  }
  void pool(cpu::Pool how, float* scores) {
    kernels_->pool(queries(), next_cache(), how, scores, workspace());
  }

  // Operations of attend(); half of them are q·kᵀ.
  double operations(const cpu::KeyList& list) const {
    double keys = 0;
    for (int32_t row = 0; row < rows_; ++row) {
      keys += list.chosen_count + depth_ + row + 1 - list.own_begin;
    }
    return keys * 4 * dim_ * kGroup;
  }
  // Bytes of keys and values that attend() reads.
  double bytes(const cpu::KeyList& list) const {
    return 4.0 * dim_ * (list.chosen_count + list.own_end - list.own_begin);
  }

  // Bytes per second of reading the keys one after the other.
  double read_speed() const {
    const auto* words = keys_.view().row<uint64_t>(0);
    const int64_t count = keys_.bytes() / 8;
    uint64_t sums[16] = {};
    const double start = thread_seconds();
    for (int64_t i = 0; i + 16 <= count; i += 16) {
      for (int lane = 0; lane < 16; ++lane) sums[lane] += words[i + lane];
    }
    benchmark::DoNotOptimize(sums);
    return static_cast<double>(keys_.bytes()) / (thread_seconds() - start);
  }

 private:
  cpu::Queries queries() const {
    return {q_.view().f32(0), kGroup * dim_, rows_, kGroup, dim_, depth_};
  }
  cpu::CachedRows next_cache() {
    kv_head_ = (kv_head_ + 1) % kv_heads_;
    return {keys_.view().data,
            values_.view().data,
            cpu::CacheFormat::kBF16,
            dim_,
            dim_,
            blocks_.data(),
            kBlockSize,
            kv_heads_,
            kv_head_};
  }
  float* workspace() {
    const int64_t size =
        kernels_->workspace_size(queries(), cpu::CacheFormat::kBF16, depth_ + rows_);
    if (workspace_.bytes() < size * size_of(DType::kF32))
      workspace_ = HostBuffer(DType::kF32, 1, size);
    return workspace_.view().f32(0);
  }

  int32_t depth_, dim_, rows_ = 0, kv_heads_ = 0, kv_head_ = 0;
  const cpu::Kernels* kernels_ = nullptr;
  static constexpr size_t kLists = 8;
  int32_t lists_ = 0;
  std::vector<int32_t> blocks_{};
  std::array<std::vector<int32_t>, kLists> chosen_{};
  HostBuffer keys_{}, values_{}, q_{}, out_{}, workspace_{};
};

// Runs `work` and reports `amount` of it per second, and in percent of the ceiling.
template <typename Work>
void measure(benchmark::State& state, const Head& head, const char* what, double amount,
             double ceiling, const Work& work) {
  const double start = thread_seconds();
  for (auto _ : state) work();
  const double seconds = thread_seconds() - start;
  state.SetLabel(head.kernels().isa);
  state.counters[what] = Counter(amount, Counter::kIsIterationInvariantRate, Counter::kIs1000);
  state.counters["%"] = 100 * amount * static_cast<double>(state.iterations()) / seconds / ceiling;
}

void bench_tile(benchmark::State& state, bool sparse) {
  Head head(state, kRows);
  measure(state, head, "FLOP/s", head.operations(head.list(sparse)), peak(),
          [&] { head.attend(head.list(sparse)); });
}
void attend_tile_dense(benchmark::State& state) { bench_tile(state, false); }
void attend_tile_gathered(benchmark::State& state) { bench_tile(state, true); }

void bench_row(benchmark::State& state, bool sparse) {
  Head head(state, 1);
  measure(state, head, "B/s", head.bytes(head.list(sparse)), head.read_speed(),
          [&] { head.attend(head.list(sparse)); });
}
void attend_row_dense(benchmark::State& state) { bench_row(state, false); }
void attend_row_gathered(benchmark::State& state) { bench_row(state, true); }

// Share of the peak by q·kᵀ done once.
void pool_tile(benchmark::State& state) {
  Head head(state, kRows);
  std::vector<float> scores(static_cast<size_t>(state.range(0)) + kRows);
  measure(state, head, "FLOP/s", head.operations(head.dense()) / 2, peak(),
          [&] { head.pool(cpu::Pool::kSum, scores.data()); });
}
// Share of the read speed by the keys alone.
void pool_row(benchmark::State& state) {
  Head head(state, 1);
  std::vector<float> scores(static_cast<size_t>(state.range(0)) + 1);
  measure(state, head, "B/s", head.bytes(head.dense()) / 2, head.read_speed(),
          [&] { head.pool(cpu::Pool::kMax, scores.data()); });
}

// Scores of a softmax: a few large, most tiny.
void choose_a_tenth(benchmark::State& state) {
  const auto keys = static_cast<int32_t>(state.range(0));
  Random random(1);
  std::normal_distribution<float> logit(0, 3);
  std::vector<float> scores(static_cast<size_t>(keys));
  for (float& score : scores) score = std::exp(logit(random) - 10);
  std::vector<int32_t> chosen(scores.size());
  ChoiceWorkspace workspace;
  const Choice choice{0, keys, keys / 10, 1};
  const ChoiceKernels& kernels = *cpu::pick_kernels().choice;
  for (auto _ : state) choose_keys(scores.data(), choice, workspace, chosen.data(), kernels);
  state.counters["keys/s"] = Counter(keys, Counter::kIsIterationInvariantRate, Counter::kIs1000);
}

const std::vector<std::vector<int64_t>> kTiles = {{0, 2048, 8192, 16384}, {64, 128}, {0, 1}};
const std::vector<std::vector<int64_t>> kDeep = {{8192, 32768}, {64, 128}, {0, 1}};
BENCHMARK(attend_tile_dense)->ArgsProduct(kTiles);
BENCHMARK(attend_tile_gathered)->ArgsProduct(kDeep);
BENCHMARK(attend_row_dense)->ArgsProduct(kDeep);
BENCHMARK(attend_row_gathered)->ArgsProduct(kDeep);
BENCHMARK(pool_tile)->ArgsProduct(kDeep);
BENCHMARK(pool_row)->ArgsProduct(kDeep);
BENCHMARK(choose_a_tenth)->Arg(8192)->Arg(32768)->Arg(131072);

}  // namespace
}  // namespace kascade::testing
