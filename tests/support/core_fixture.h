// The fixture for tests of the server's core without gRPC: an engine with a tiny random model, and
// the objects that requests need.
#ifndef KASCADE_TESTS_SUPPORT_CORE_FIXTURE_H_
#define KASCADE_TESTS_SUPPORT_CORE_FIXTURE_H_

#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "server/core/server_context.h"
#include "tests/support/engine_client.h"
#include "tests/support/tiny_model.h"

namespace kascade::testing {

class CoreTest : public ::testing::Test {
 protected:
  CoreTest() {
    write_tiny_model({.layers = 4, .context = 512, .peaked = true}, dir_.path());
    EngineOptions options;
    options.model_directory = dir_.path();
    // On this backend the result of a row does not depend on the other rows of a batch.
    options.backend = "reference";
    options.max_sequences = 8;
    options.max_batch_tokens = 264;
    options.threads = 1;
    engine_ = make_engine(options);
    schedules_ = std::make_unique<core::Schedules>(*engine_, "");
    context_ =
        std::make_unique<core::ServerContext>(*engine_, *schedules_, metrics_, work_, requests_,
                                              memory_, readers_, core::ServerLimits{}, false);
  }

  // Adds a schedule with these anchor layers to the store under its id.
  std::shared_ptr<const Schedule> add_schedule(const std::vector<int32_t>& anchors) {
    const SelectionSettings settings{
        .family = Family::kKascade, .query_tile = 16, .ratio = 0.1, .min_keys = 8};
    std::shared_ptr<const Schedule> schedule = make_schedule(*engine_, anchors, settings);
    EXPECT_TRUE(schedules_->add(schedule).ok());
    return schedule;
  }
  static std::string long_text(size_t bytes) {
    std::string text;
    while (text.size() < bytes) text += "the thin lines in the other corner ";
    return text.substr(0, bytes);
  }

  TempDir dir_;
  metrics::ServerMetrics metrics_;
  core::WorkQueue work_{1};
  core::RequestTracker requests_;
  core::MemoryBudget memory_{int64_t{1} << 28, metrics_};
  core::ReaderMonitor readers_{absl::Minutes(10), memory_};
  // Destroyed before those above: it may still hold a request that has ended, and uses them.
  std::unique_ptr<Engine> engine_;
  std::unique_ptr<core::Schedules> schedules_;
  std::unique_ptr<core::ServerContext> context_;
};

// Lets a test wait for the end of a request, which a sink reports.
class AwaitedEnd {
 public:
  void end(const absl::Status& status) {
    const std::lock_guard lock(mutex_);
    if (!status_) status_ = status;
    changed_.notify_all();
  }
  absl::Status wait() {
    std::unique_lock lock(mutex_);
    const bool ended =
        changed_.wait_for(lock, std::chrono::seconds(60), [this] { return status_.has_value(); });
    EXPECT_TRUE(ended) << "the request did not end";
    return status_.value_or(absl::DeadlineExceededError("not ended"));
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::optional<absl::Status> status_;
};

}  // namespace kascade::testing

#endif  // KASCADE_TESTS_SUPPORT_CORE_FIXTURE_H_
