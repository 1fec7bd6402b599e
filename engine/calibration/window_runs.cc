#include "engine/calibration/window_runs.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <utility>
#include <vector>

#include "engine/base/check.h"
#include "engine/base/clock.h"

namespace kascade {
namespace {

// Submits a set of requests and waits until all have finished. The sinks run on the engine's
// thread, one at a time.
class RequestGroup {
 public:
  EventSink sink(std::function<void(const Event&)> on_event) {
    return [this, on_event = std::move(on_event)](const Event& event) {
      const std::lock_guard lock(mutex_);
      on_event(event);
      if (!event.finish) return;
      if (!event.finish->status.ok()) status_.Update(event.finish->status);
      ++finished_;
      changed_.notify_all();
    };
  }

  void add(absl::StatusOr<SeqId> submitted) {
    if (submitted.ok()) ids_.push_back(*submitted);
    submitted_.Update(submitted.status());
  }
  bool all_submitted() const { return submitted_.ok(); }

  // Waits until all have finished. Cancels all of them once `stop` is set, or if the engine refused
  // one.
  absl::Status wait(Engine& engine, const std::atomic<bool>& stop) {
    std::unique_lock lock(mutex_);
    bool cancelled = false;
    while (finished_ < ids_.size()) {
      if (!cancelled && (stop || !all_submitted())) {
        cancelled = true;
        lock.unlock();
        for (const SeqId id : ids_) engine.cancel(id);
        lock.lock();
        continue;
      }
      changed_.wait_for(lock, std::chrono::milliseconds(50));
    }
    if (!all_submitted()) return submitted_;
    if (cancelled) return absl::CancelledError("the calibration was cancelled");
    return status_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  size_t finished_ = 0;
  absl::Status status_;
  std::vector<SeqId> ids_;
  absl::Status submitted_;
};

// [windows][scored tokens] −log p by TokenCounts, over all windows as one text. The first token of
// a window is not scored.
std::vector<std::vector<double>> counts_nll(const Texts& windows, int32_t vocab) {
  TokenCounts counts(vocab);
  std::vector<std::vector<double>> out;
  for (const auto& window : windows) {
    auto& nll = out.emplace_back();
    for (size_t j = 1; j < window.size(); ++j) nll.push_back(counts.add(window[j]));
  }
  return out;
}

WindowComparison sum_of(const std::vector<WindowComparison>& windows) {
  WindowComparison sum;
  for (const WindowComparison& window : windows) {
    sum.sums += window.sums;
    sum.counts += window.counts;
    sum.doubt += window.doubt;
    sum.kl.insert(sum.kl.end(), window.kl.begin(), window.kl.end());
  }
  return sum;
}

}  // namespace

absl::StatusOr<std::vector<Similarity>> WindowRuns::measure(const SelectionSettings& settings,
                                                            SimilarityKind kind,
                                                            const Texts& windows,
                                                            const TokensDone& done) {
  const ModelConfig& model = engine_.model();
  const RecorderShape shape{model.layers, model.kv_heads, model.group()};
  RequestGroup group;
  std::vector<std::shared_ptr<SimilarityRecorder>> recorders;
  std::vector<int64_t> computed(windows.size(), 0);
  for (size_t i = 0; i < windows.size() && group.all_submitted(); ++i) {
    recorders.push_back(std::make_shared<SimilarityRecorder>(
        settings, kind, shape, static_cast<int32_t>(windows[i].size()) - 1));
    auto sink = group.sink([&computed, &done, i](const Event& event) {
      computed[i] = std::max<int64_t>(computed[i], event.computed_tokens);
      int64_t sum = 0;
      for (const int64_t tokens : computed) sum += tokens;
      done(sum);
    });
    Request request{.tokens = windows[i], .task = Observe{recorders.back()}};
    group.add(
        engine_.submit(std::move(request), {.priority = Priority::kBackground}, std::move(sink)));
  }
  if (absl::Status status = group.wait(engine_, stop_); !status.ok()) return status;
  std::vector<Similarity> measured;
  for (const auto& recorder : recorders) measured.push_back(recorder->window_similarity());
  return measured;
}

absl::StatusOr<WindowComparison> WindowRuns::compare(
    const std::shared_ptr<const Schedule>& schedule, const Texts& windows, const TokensDone& done) {
  // Windows run side by side. Neither what counting predicts nor the order of a sum may depend on
  // which one is ahead.
  const std::vector<std::vector<double>> counted = counts_nll(windows, engine_.model().vocab);
  std::vector<WindowComparison> compared(windows.size());
  int64_t scored = 0;  // tokens of all windows
  RequestGroup group;
  for (size_t i = 0; i < windows.size() && group.all_submitted(); ++i) {
    auto sink = group.sink([&, i](const Event& event) {
      KASCADE_CHECK(event.comparisons.size() == event.tokens.size());
      WindowComparison& window = compared[i];
      for (size_t j = 0; j < event.tokens.size(); ++j) {
        const TokenComparison& token = event.comparisons[j];
        const double logprob = event.tokens[j].logprob;
        const size_t place = window.kl.size();  // of the token in counted[i]
        window.sums.add(logprob, token.second.logprob, token.kl, token.same_top1);
        window.kl.push_back(token.kl);
        window.doubt.add(static_cast<int64_t>(place) + 1, -logprob, counted[i][place]);
      }
      if (event.finish && event.finish->status.ok()) window.counts += event.finish->counts.at(1);
      scored += static_cast<int64_t>(event.tokens.size());
      done(scored);
    });
    Request request{.tokens = windows[i],
                    .task = Score{},
                    .attention = DenseAttention{},
                    .compared_with = ScheduledAttention{.schedule = schedule}};
    group.add(
        engine_.submit(std::move(request), {.priority = Priority::kBackground}, std::move(sink)));
  }
  if (absl::Status status = group.wait(engine_, stop_); !status.ok()) return status;
  return sum_of(compared);
}

absl::StatusOr<std::vector<bool>> WindowRuns::ask(const AttentionChoice& attention,
                                                  std::span<const Question> questions,
                                                  const TokensDone& done) {
  std::vector<bool> answered(questions.size(), true);
  std::vector<int64_t> computed(questions.size(), 0);
  RequestGroup group;
  for (size_t i = 0; i < questions.size() && group.all_submitted(); ++i) {
    auto sink = group.sink([&, i](const Event& event) {
      for (const ScoredToken& token : event.tokens) {
        if (!token.is_top1) answered[i] = false;
      }
      computed[i] = std::max<int64_t>(computed[i], event.computed_tokens);
      int64_t sum = 0;
      for (const int64_t tokens : computed) sum += tokens;
      done(sum);
    });
    Request request{.tokens = questions[i].tokens,
                    .task = Score{.first_scored = questions[i].answer_begin},
                    .attention = attention};
    group.add(
        engine_.submit(std::move(request), {.priority = Priority::kBackground}, std::move(sink)));
  }
  if (absl::Status status = group.wait(engine_, stop_); !status.ok()) return status;
  return answered;
}

absl::StatusOr<std::vector<ChunkTime>> WindowRuns::time_chunks(const AttentionChoice& attention,
                                                               std::span<const Token> tokens,
                                                               const TokensDone& done) {
  std::vector<ChunkTime> chunks;
  int32_t fed = 0;
  absl::Time last = absl::InfinitePast();
  RequestGroup group;
  auto sink = group.sink([&](const Event& event) {
    const absl::Time now = steady_now();
    if (fed > 0 && event.computed_tokens > fed) {
      chunks.push_back({fed, event.computed_tokens - fed, absl::ToDoubleSeconds(now - last)});
    }
    fed = event.computed_tokens;
    last = now;
    done(fed);
  });
  Request request{.tokens = {tokens.begin(), tokens.end()},
                  .task = Generate{.max_new_tokens = 1},
                  .attention = attention};
  group.add(engine_.submit(std::move(request),
                           {.priority = Priority::kBackground, .has_whole_chunks = true},
                           std::move(sink)));
  if (absl::Status status = group.wait(engine_, stop_); !status.ok()) return status;
  return chunks;
}

}  // namespace kascade
