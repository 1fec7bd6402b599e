// The thread pool: every task once, no call overtaken by the next, with any number of threads.
#include "engine/backend/cpu/thread_pool.h"

#include <atomic>
#include <chrono>
#include <cstdint>
#include <numeric>
#include <thread>
#include <vector>

#include "gtest/gtest.h"

namespace kascade::cpu {
namespace {

class ThreadPoolTest : public ::testing::TestWithParam<int32_t> {
 protected:
  ThreadPool pool_{GetParam()};
};

TEST_P(ThreadPoolTest, RunsEveryTaskOnce) {
  EXPECT_EQ(pool_.threads(), GetParam());
  for (const int64_t tasks : {0, 1, 2, 3, 7, 64, 1000}) {
    std::vector<int32_t> runs(static_cast<size_t>(tasks));  // plain: each task has its own
    pool_.run(tasks, [&](int64_t task, int32_t) { ++runs[static_cast<size_t>(task)]; });
    for (const int32_t count : runs) EXPECT_EQ(count, 1);
  }
}

TEST_P(ThreadPoolTest, NoTwoTasksShareAWorker) {
  std::vector<std::atomic<int32_t>> busy(static_cast<size_t>(pool_.threads()));
  std::atomic<int32_t> shared{0};
  pool_.run(500, [&](int64_t, int32_t worker) {
    ASSERT_GE(worker, 0);
    ASSERT_LT(worker, pool_.threads());
    auto& mine = busy[static_cast<size_t>(worker)];
    if (mine.fetch_add(1) != 0) ++shared;
    std::this_thread::yield();
    mine.fetch_sub(1);
  });
  EXPECT_EQ(shared.load(), 0);
}

// What one call wrote is there for the next, on whichever thread; many short calls in a row are
// where a late worker could meet the wrong one.
TEST_P(ThreadPoolTest, CallsFollowEachOther) {
  std::vector<int64_t> values(16);
  for (int64_t round = 1; round <= 5000; ++round) {
    pool_.run(16, [&](int64_t task, int32_t) {
      const auto from = static_cast<size_t>((task + round) % 16);
      ASSERT_EQ(values[from], round * (round - 1) / 2);
    });
    pool_.run(16, [&](int64_t task, int32_t) { values[static_cast<size_t>(task)] += round; });
    ASSERT_EQ(std::accumulate(values.begin(), values.end(), int64_t{0}), 8 * round * (round + 1));
  }
}

// Workers that have gone to sleep are woken, and callers that have.
TEST_P(ThreadPoolTest, WakesSleepers) {
  for (int round = 0; round < 5; ++round) {
    std::this_thread::sleep_for(std::chrono::milliseconds(3));
    std::atomic<int32_t> done{0};
    pool_.run(8, [&](int64_t task, int32_t) {
      std::this_thread::sleep_for(std::chrono::microseconds(task * 200));
      ++done;
    });
    EXPECT_EQ(done.load(), 8);
  }
}

INSTANTIATE_TEST_SUITE_P(Threads, ThreadPoolTest, ::testing::Values(1, 2, 3, 8));

}  // namespace
}  // namespace kascade::cpu
