// Cancels requests in every state that they can be in, thousands of them, and asks for everything
// back: blocks of the KV cache, memory of requests, threads. KASCADE_STORM_REQUESTS sets how many.
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <deque>
#include <filesystem>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "engine/base/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/core/calibration_jobs.h"
#include "server/core/generation.h"
#include "server/core/limits.h"
#include "server/core/scoring.h"
#include "server/core/tracing.h"
#include "tests/support/core_fixture.h"
#include "tests/support/sanitizers.h"

namespace kascade::testing {
namespace {

// When the client leaves.
enum class Moment {
  kBeforeStart,
  kWhileEncoding,  // on the work queue, or waiting for it
  kQueued,         // right after start() has returned: it waits, or its prompt is being computed
  kAtFirstMessage,
  kBetweenSteps,  // after some tokens, on the engine's thread
  kUnread,        // while the client reads nothing, so that no further window is submitted
  kAfterTheEnd,
};
constexpr Moment kMoments[] = {Moment::kBeforeStart, Moment::kWhileEncoding,  Moment::kQueued,
                               Moment::kQueued,      Moment::kAtFirstMessage, Moment::kBetweenSteps,
                               Moment::kUnread,      Moment::kAfterTheEnd};

// A request and its client.
class Call {
 public:
  Call(core::RequestTracker& requests, Moment moment) : requests_(requests), moment_(moment) {
    requests_.enter();
  }
  virtual ~Call() { requests_.leave(); }
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;

  virtual void start(const std::string& text, std::shared_ptr<const void> owner) = 0;
  virtual void cancel() = 0;
  Moment moment() const { return moment_; }
  absl::Status wait() { return end_.wait(); }
  int results_after_cancel() const { return results_after_cancel_; }

 protected:
  void reach(Moment moment) {
    if (moment != moment_) return;
    cancel();
    cancelled_ = true;
  }
  void result() {
    if (cancelled_) ++results_after_cancel_;
    if (++results_ == 2) reach(Moment::kBetweenSteps);
  }
  void end(const absl::Status& status) { end_.end(status); }

 private:
  core::RequestTracker& requests_;
  const Moment moment_;
  std::atomic<bool> cancelled_ = false;
  std::atomic<int> results_ = 0, results_after_cancel_ = 0;
  AwaitedEnd end_;
};

class GenerationCall final : public Call, public core::GenerationSink {
 public:
  GenerationCall(core::ServerContext& context, Moment moment)
      : Call(context.requests, moment), generation_(context, *this, steady_now()) {}

  void start(const std::string& text, std::shared_ptr<const void> owner) override {
    core::GenerationRequest request{.prompt = core::TextPrompt{text}, .max_new_tokens = 24};
    request.ignore_eos = true;
    request.want_logprobs = true;
    generation_.start(std::move(request), std::move(owner));
  }
  void cancel() override { generation_.cancel(); }

 private:
  void started(const core::GenerationStarted&) override { reach(Moment::kAtFirstMessage); }
  void delta(core::GenerationDelta) override { result(); }
  void finished(const core::GenerationFinished&) override {}
  void ended(const absl::Status& status) override { end(status); }

  core::Generation generation_;
};

class ScoringCall final : public Call, public core::ScoringSink {
 public:
  ScoringCall(core::ServerContext& context, Moment moment)
      : Call(context.requests, moment), scoring_(context, *this, steady_now()) {}

  void start(const std::string& text, std::shared_ptr<const void> owner) override {
    core::ScoringRequest request{.inputs = {core::TextToScore{text}, core::TextToScore{text}},
                                 .compared_with = DenseAttention{},
                                 .window_tokens = 33,
                                 .send_tokens = true};
    scoring_.start(request, owner);
  }
  void cancel() override { scoring_.cancel(); }

 private:
  void started(const core::ScoringStarted&) override { reach(Moment::kAtFirstMessage); }
  void progress(const core::ScoringProgress&) override {}
  void columns(const core::ScoredColumns&) override { result(); }
  void summary(const core::ScoringSummary&) override {}
  void ended(const absl::Status& status) override { end(status); }
  size_t unsent_bytes() const override {
    return moment() == Moment::kUnread ? core::kMaxUnsentBytes : 0;
  }

  core::Scoring scoring_;
};

class TracingCall final : public Call, public core::TracingSink {
 public:
  TracingCall(core::ServerContext& context, Moment moment)
      : Call(context.requests, moment), tracing_(context, *this) {}

  void start(const std::string& text, std::shared_ptr<const void> owner) override {
    core::TracingRequest request{.prompt = core::TextPrompt{text}};
    tracing_.start(request, owner);
  }
  void cancel() override { tracing_.cancel(); }

 private:
  void started(const core::TracingStarted&) override { reach(Moment::kAtFirstMessage); }
  void progress(int32_t, int32_t) override {}
  void layer(const LayerTrace&) override { result(); }
  void map(const TraceMap&) override {}
  void finished(const AttentionCounts&, const AttentionChoice&) override {}
  void ended(const absl::Status& status) override { end(status); }

  core::Tracing tracing_;
};

class Follower final : public core::CalibrationSubscriber {
 public:
  void started(const core::CalibrationStarted& started) override { id = started.id; }
  void progress(const core::CalibrationReport&) override {}
  void ended(const absl::Status& status, const core::CalibrationResult*) override {
    end.end(status);
  }

  std::string id;
  AwaitedEnd end;
};

int requests() {
  const char* const set = std::getenv("KASCADE_STORM_REQUESTS");
  return set != nullptr ? std::atoi(set) : repetitions(2000);
}

int64_t threads_of_this_process() {
  const std::filesystem::directory_iterator tasks("/proc/self/task");
  return std::distance(begin(tasks), end(tasks));
}

class CancelStormTest : public CoreTest {
 protected:
  CancelStormTest() : schedule_(add_schedule({1, 3})) {
    EXPECT_TRUE(engine_->activate(schedule_).ok());
  }

  std::shared_ptr<Call> any_call(Moment moment) {
    // Only a scoring waits for its reader, and only a scoring takes texts that are long to encode.
    const bool must_score = moment == Moment::kUnread || moment == Moment::kWhileEncoding;
    const auto kind = must_score ? 0 : random_() % 4;
    if (kind == 0) return std::make_shared<ScoringCall>(*context_, moment);
    if (kind == 1) return std::make_shared<TracingCall>(*context_, moment);
    return std::make_shared<GenerationCall>(*context_, moment);
  }
  // Starts the call, and cancels it unless it does so itself.
  void start(const std::shared_ptr<Call>& call) {
    const Moment moment = call->moment();
    if (moment == Moment::kBeforeStart) call->cancel();
    if (moment == Moment::kWhileEncoding) {
      work_.run(long_text_.size(), [this, call] { call->start(long_text_, call); });
    } else {
      call->start(text_, call);
    }
    const bool is_left_now =
        moment == Moment::kWhileEncoding || moment == Moment::kQueued || moment == Moment::kUnread;
    if (is_left_now) call->cancel();
  }
  static void end(const std::shared_ptr<Call>& call) {
    const absl::Status status = call->wait();
    if (call->moment() == Moment::kAfterTheEnd) {
      EXPECT_TRUE(status.ok() || absl::IsResourceExhausted(status)) << status;
      call->cancel();
      return;
    }
    EXPECT_TRUE(status.ok() || absl::IsCancelled(status) || absl::IsResourceExhausted(status))
        << status;
    // The step that runs ends, and a trace tells all of its layers at once.
    EXPECT_LE(call->results_after_cancel(), 4);
  }
  // Starts calibrations and stops them, in turns by leaving and by command.
  void cancel_calibrations(core::CalibrationJobs& jobs, const std::atomic<bool>& storm_is_over) {
    for (int i = 0; !storm_is_over || i < 4; ++i) {
      const std::string text = absl::StrCat(i, long_text(12000));
      core::CalibrationRequest request{.texts = {text}};
      request.options.selection = schedule_->selection;
      auto prepared =
          core::prepare(request, *engine_, std::make_shared<core::RequestGuard>(memory_));
      ASSERT_TRUE(prepared.ok()) << prepared.status();
      const auto follower = std::make_shared<Follower>();
      if (absl::IsAborted(jobs.start(*std::move(prepared), follower))) continue;
      std::this_thread::sleep_for(std::chrono::milliseconds(i % 5 * 4));
      if (i % 2 == 0) {
        jobs.unsubscribe(follower->id, follower.get(), /*cancel=*/true);
      } else {
        EXPECT_TRUE(jobs.cancel(follower->id, std::make_shared<Follower>()).ok());
        EXPECT_TRUE(absl::IsCancelled(follower->end.wait()));
      }
    }
  }
  bool everything_is_back() {
    const EngineStats stats = engine_->stats();
    return stats.free_blocks == stats.total_blocks && stats.running + stats.waiting == 0 &&
           memory_.used() == 0 && requests_.wait_for(absl::ZeroDuration());
  }

  const std::string text_ = long_text(150);
  const std::string long_text_ = long_text(core::kMaxInlineBytes + 1000);
  std::shared_ptr<const Schedule> schedule_;
  std::minstd_rand random_{7};
};

TEST_F(CancelStormTest, NothingIsLeftOfRequestsThatWereCancelledInAnyState) {
  const int64_t threads = threads_of_this_process();
  {
    core::CalibrationJobs jobs(*engine_, *schedules_, metrics_);
    std::atomic<bool> storm_is_over = false;
    std::thread calibrations([&] { cancel_calibrations(jobs, storm_is_over); });
    std::deque<std::shared_ptr<Call>> running;
    for (int i = 0; i < requests(); ++i) {
      running.push_back(any_call(kMoments[random_() % std::size(kMoments)]));
      start(running.back());
      if (running.size() < 48) continue;
      end(running.front());
      running.pop_front();
    }
    for (const auto& call : running) end(call);
    storm_is_over = true;
    calibrations.join();
  }
  for (int i = 0; i < 5000 && !everything_is_back(); ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  const EngineStats stats = engine_->stats();
  EXPECT_EQ(stats.free_blocks, stats.total_blocks);
  EXPECT_EQ(stats.running + stats.waiting, 0);
  EXPECT_EQ(memory_.used(), 0);
  EXPECT_TRUE(requests_.wait_for(absl::ZeroDuration()));
  EXPECT_EQ(threads_of_this_process(), threads);
}

// A generation that nobody wants computes no further step than the one that runs.
TEST_F(CancelStormTest, ACancelledGenerationEndsWithTheStepThatRuns) {
  for (int i = 0; i < 20; ++i) {
    const auto call = std::make_shared<GenerationCall>(*context_, Moment::kBetweenSteps);
    start(call);
    EXPECT_TRUE(absl::IsCancelled(call->wait()));
    EXPECT_EQ(call->results_after_cancel(), 0);
  }
}

}  // namespace
}  // namespace kascade::testing
