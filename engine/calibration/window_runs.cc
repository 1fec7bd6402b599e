#include "engine/calibration/window_runs.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <utility>
#include <vector>

#include "engine/base/check.h"

namespace kascade {
namespace {

// Waits for a set of sequences; the sinks run on the engine's thread.
class Gathering {
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

  // Waits until all have finished; cancels them once `stop` is set, or if one could not be added.
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

}  // namespace

absl::StatusOr<Similarity> WindowRuns::measure(const SelectionSettings& rule, SimilarityKind kind,
                                               const Texts& windows, const TokensDone& done) {
  const ModelConfig& model = engine_.model();
  const RecorderShape shape{model.layers, model.kv_heads, model.group()};
  Gathering gathering;
  std::vector<std::shared_ptr<SimilarityRecorder>> recorders;
  std::vector<int64_t> computed(windows.size(), 0);
  for (size_t i = 0; i < windows.size() && gathering.all_submitted(); ++i) {
    recorders.push_back(std::make_shared<SimilarityRecorder>(
        rule, kind, shape, static_cast<int32_t>(windows[i].size()) - 1));
    auto sink = gathering.sink([&computed, &done, i](const Event& event) {
      computed[i] = std::max<int64_t>(computed[i], event.computed_tokens);
      int64_t sum = 0;
      for (const int64_t tokens : computed) sum += tokens;
      done(sum);
    });
    Request request{.tokens = windows[i], .task = Observe{recorders.back()}};
    gathering.add(engine_.submit(std::move(request), {.background = true}, std::move(sink)));
  }
  if (absl::Status status = gathering.wait(engine_, stop_); !status.ok()) return status;
  std::vector<Similarity> measured;
  for (const auto& recorder : recorders) measured.push_back(recorder->window_similarity());
  return mean_similarity(measured);
}

absl::StatusOr<ComparedSums> WindowRuns::compare(const std::shared_ptr<const Schedule>& schedule,
                                                 const Texts& windows, const TokensDone& done) {
  ComparedSums sums;
  Gathering gathering;
  for (size_t i = 0; i < windows.size() && gathering.all_submitted(); ++i) {
    auto sink = gathering.sink([&](const Event& event) {
      KASCADE_CHECK(event.comparisons.size() == event.tokens.size());
      for (size_t j = 0; j < event.tokens.size(); ++j) {
        const TokenComparison& token = event.comparisons[j];
        const double dense = event.tokens[j].logprob, sparse = token.second.logprob;
        sums.dense -= dense;
        sums.sparse -= sparse;
        sums.difference_squares += (sparse - dense) * (sparse - dense);
        sums.kl += token.kl;
        sums.same_top1 += token.same_top1;
      }
      sums.tokens += static_cast<int64_t>(event.tokens.size());
      if (event.finish && event.finish->status.ok()) sums.counts += event.finish->counts.at(1);
      done(sums.tokens);
    });
    Request request{.tokens = windows[i],
                    .task = Score{},
                    .attention = DenseAttention{},
                    .compared_with = ScheduledAttention{.schedule = schedule}};
    gathering.add(engine_.submit(std::move(request), {.background = true}, std::move(sink)));
  }
  if (absl::Status status = gathering.wait(engine_, stop_); !status.ok()) return status;
  return sums;
}

}  // namespace kascade
