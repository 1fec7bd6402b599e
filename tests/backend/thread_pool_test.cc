// Tests the thread pool: with any number of threads, every task runs once, and a call completes
// before the next one starts.
#include "engine/backend/cpu/thread_pool.h"

#include <atomic>
#include <chrono>
#include <cstdint>
#include <numeric>
#include <string>
#include <thread>
#include <vector>

#include "engine/backend/cpu/affinity.h"
#include "gmock/gmock.h"
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

// The i-th worker on the i-th CPU of the mask; a machine with fewer CPUs binds several to one.
TEST_P(ThreadPoolTest, BindsWorkers) {
  const auto allowed = allowed_cpus();
  ASSERT_TRUE(allowed.ok()) << allowed.status();
  std::vector<int32_t> cpus;
  for (size_t i = 0; i < static_cast<size_t>(GetParam()); ++i) {
    cpus.push_back((*allowed)[i % allowed->size()]);
  }
  ThreadPool pool(GetParam(), cpus);
  EXPECT_TRUE(pool.refused().empty());
  std::vector<std::vector<int32_t>> found(cpus.size());  // plain: each worker has its own
  for (int round = 0; round < 20; ++round) {
    pool.run(100, [&](int64_t, int32_t worker) {
      found[static_cast<size_t>(worker)] = *allowed_cpus();
      std::this_thread::yield();
    });
  }
  EXPECT_THAT(found[0], ::testing::AnyOf(::testing::IsEmpty(), *allowed));  // not bound by the pool
  for (size_t i = 1; i < found.size(); ++i) {
    EXPECT_THAT(found[i], ::testing::AnyOf(::testing::IsEmpty(), ::testing::ElementsAre(cpus[i])));
  }
}

TEST_P(ThreadPoolTest, SaysWhatWasRefused) {
  const std::vector<int32_t> cpus(static_cast<size_t>(GetParam()), 60000);
  ThreadPool pool(GetParam(), cpus);
  EXPECT_EQ(static_cast<int32_t>(pool.refused().size()), GetParam() - 1);
  for (const absl::Status& refused : pool.refused()) {
    EXPECT_THAT(std::string(refused.message()), ::testing::HasSubstr("CPU 60000"));
  }
  std::atomic<int32_t> runs{0};
  pool.run(10, [&](int64_t, int32_t) { ++runs; });
  EXPECT_EQ(runs.load(), 10);
}

INSTANTIATE_TEST_SUITE_P(Threads, ThreadPoolTest, ::testing::Values(1, 2, 3, 8));

}  // namespace
}  // namespace kascade::cpu
