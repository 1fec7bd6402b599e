// Tests the order of large requests, with work that waits for the test.
#include "server/core/work_queue.h"

#include <condition_variable>
#include <mutex>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace kascade::core {
namespace {

using ::testing::ElementsAre;

constexpr size_t kMiB = size_t{1} << 20;

// Work that notes its name, and "long" that runs until finish_long().
class Script {
 public:
  std::function<void()> work(const std::string& name) {
    return [this, name] {
      std::unique_lock lock(mutex_);
      ran_.push_back(name);
      changed_.notify_all();
      if (name == "long") changed_.wait(lock, [this] { return finished_; });
    };
  }
  void finish_long() {
    const std::lock_guard lock(mutex_);
    finished_ = true;
    changed_.notify_all();
  }
  // Waits until so many have run.
  std::vector<std::string> ran(size_t count) {
    std::unique_lock lock(mutex_);
    EXPECT_TRUE(
        changed_.wait_for(lock, std::chrono::seconds(60), [&] { return ran_.size() >= count; }));
    return ran_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool finished_ = false;
  std::vector<std::string> ran_;
};

TEST(WorkQueueTest, SmallWorkRunsAtOnceOnTheCallingThread) {
  Script script;
  WorkQueue queue(1);
  queue.run(1000, script.work("small"));
  EXPECT_THAT(script.ran(0), ElementsAre("small"));
}

// What waits for a disk keeps no thread of a front end, however small its request.
TEST(WorkQueueTest, PostedWorkNeverRunsOnTheCallingThread) {
  Script script;
  WorkQueue queue(1);
  queue.post(script.work("long"));
  EXPECT_THAT(script.ran(1), ElementsAre("long"));
  script.finish_long();
}

TEST(WorkQueueTest, LargeTextsDoNotKeepMediumOnesWaiting) {
  Script script;
  WorkQueue queue(2);
  queue.run(16 * kMiB, script.work("long"));
  for (int i = 0; i < 8; ++i) queue.run(16 * kMiB, script.work("another"));
  queue.run(kMiB, script.work("medium"));
  EXPECT_THAT(script.ran(2), ::testing::UnorderedElementsAre("long", "medium"));
  script.finish_long();
  EXPECT_EQ(script.ran(10).size(), 10U);
}

TEST(WorkQueueTest, ShorterWorkGoesFirstUntilLongWorkHasWaited) {
  std::atomic<int64_t> seconds = 0;
  Script script;
  WorkQueue queue(1, [&] { return absl::FromUnixSeconds(1'000'000 + seconds); });
  queue.run(16 * kMiB, script.work("long"));
  EXPECT_THAT(script.ran(1), ElementsAre("long"));
  queue.run(16 * kMiB, script.work("16"));
  queue.run(2 * kMiB, script.work("2"));
  seconds = 1;  // counts as 4 MiB
  queue.run(8 * kMiB, script.work("8 a second later"));
  queue.run(15 * kMiB, script.work("15 a second later"));
  script.finish_long();
  EXPECT_THAT(script.ran(5),
              ElementsAre("long", "2", "8 a second later", "16", "15 a second later"));
}

TEST(WorkQueueTest, WhatIsQueuedRunsBeforeTheQueueEnds) {
  Script script;
  {
    WorkQueue queue(2);
    for (int i = 0; i < 20; ++i) queue.run(2 * kMiB, script.work("x"));
  }
  EXPECT_EQ(script.ran(20).size(), 20U);
}

}  // namespace
}  // namespace kascade::core
