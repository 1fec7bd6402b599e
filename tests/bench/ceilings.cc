#include "tests/bench/ceilings.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <vector>

#include "engine/base/check.h"

namespace kascade::bench {
namespace {

constexpr int64_t kMemory = int64_t{1} << 30;
constexpr int64_t kBurst = int64_t{256} << 20;
constexpr int64_t kBurstOperations = int64_t{1} << 30;  // per thread
constexpr int kTasksPerThread = 16;
constexpr int64_t kReadAtOnce = int64_t{512} << 10;
constexpr int kRounds = 7;

uint64_t sum_words(const uint64_t* words, int64_t count) {
  uint64_t sums[8] = {};
  for (int64_t i = 0; i + 8 <= count; i += 8) {
    for (int lane = 0; lane < 8; ++lane) sums[lane] += words[i + lane];
  }
  uint64_t sum = 0;
  for (const uint64_t part : sums) sum += part;
  return sum;
}

}  // namespace

CeilingMeter::CeilingMeter(int32_t threads, Clock clock)
    : pool_(threads), clock_(clock), memory_(DType::kF32, kMemory / size_of(DType::kF32), 1) {
  KASCADE_CHECK(clock == Clock::kWall || threads == 1);
  KASCADE_CHECK(memory_.view().data != nullptr);
  std::memset(memory_.view().data, 1, kMemory);
}

double CeilingMeter::undisturbed_operations_per_second(const CeilingLoop& loop) {
  if (loop.run == nullptr) return 0;
  const auto iterations = static_cast<int64_t>(kBurstOperations / loop.operations);
  std::vector<double> rates(static_cast<size_t>(pool_.threads()));
  pool_.run(pool_.threads(), [&](int64_t task, int32_t) {
    const double start = seconds_now(Clock::kThread);
    loop.run(iterations);
    rates[static_cast<size_t>(task)] =
        static_cast<double>(iterations) * loop.operations / (seconds_now(Clock::kThread) - start);
  });
  return std::accumulate(rates.begin(), rates.end(), 0.0);
}

double CeilingMeter::operations_per_second(const CeilingLoop& loop) {
  if (loop.run == nullptr) return 0;
  const int64_t tasks = int64_t{kTasksPerThread} * pool_.threads();
  const auto iterations =
      static_cast<int64_t>(kBurstOperations / (kTasksPerThread * loop.operations));
  const double start = seconds_now(clock_);
  pool_.run(tasks, [&](int64_t, int32_t) { loop.run(iterations); });
  return static_cast<double>(iterations * tasks) * loop.operations / (seconds_now(clock_) - start);
}

double CeilingMeter::read(int64_t begin, int64_t bytes) {
  const auto* words = memory_.view().row<uint64_t>(0) + begin / 8;
  const int64_t tasks = bytes / kReadAtOnce;
  const double start = seconds_now(clock_);
  pool_.run(tasks, [&](int64_t task, int32_t) {
    const uint64_t sum = sum_words(words + task * (kReadAtOnce / 8), kReadAtOnce / 8);
    asm volatile("" : : "r"(sum));  // the sum is wanted
  });
  return static_cast<double>(tasks * kReadAtOnce) / (seconds_now(clock_) - start);
}

double CeilingMeter::read_burst() {
  const int64_t begin = next_;
  next_ = (next_ + kBurst) % kMemory;
  return read(begin, kBurst);
}

Ceilings CeilingMeter::measure() {
  Ceilings ceilings;
  std::vector<double> reads;
  for (int round = 0; round < kRounds; ++round) {
    ceilings.f32 = std::max(ceilings.f32, undisturbed_operations_per_second(f32_loop()));
    ceilings.bf16 = std::max(ceilings.bf16, undisturbed_operations_per_second(bf16_loop()));
    ceilings.int8 = std::max(ceilings.int8, undisturbed_operations_per_second(int8_loop()));
    reads.push_back(read(0, kMemory));
  }
  ceilings.read = summarize(std::move(reads));
  return ceilings;
}

}  // namespace kascade::bench
