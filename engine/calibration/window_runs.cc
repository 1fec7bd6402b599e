#include "engine/calibration/window_runs.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/base/byte_archive.h"
#include "engine/base/check.h"
#include "engine/base/clock.h"
#include "engine/base/digest.h"
#include "engine/calibration/run_fields.h"

namespace kascade {
namespace {

// The results of one set of runs, by their number in it, in a RunResults or, without one, nowhere.
class KeptRuns {
 public:
  // `what` runs, with all that decides about the results.
  KeptRuns(RunResults* results, const char* kind, const std::string& what) : results_(results) {
    if (results != nullptr) set_ = digest(absl::StrCat(kind, "\n", what)).substr(0, 32);
  }

  // Whether there is a result, which then is in `result`.
  template <typename T>
  bool find(size_t i, T& result) const {
    const std::string* bytes = results_ == nullptr ? nullptr : results_->find(key(i));
    T found = result;
    if (bytes == nullptr || !from_bytes(*bytes, found)) return false;
    result = std::move(found);
    return true;
  }
  template <typename T>
  void keep(size_t i, const T& result) const {
    if (results_ != nullptr) results_->keep(key(i), to_bytes(result));
  }

 private:
  std::string key(size_t i) const { return absl::StrCat(set_, " ", i); }

  RunResults* results_;
  std::string set_{};
};

// Submits a set of requests and waits until all have finished. The sinks run on the engine's
// thread, one at a time.
class RequestGroup {
 public:
  // `i` is the number of the request.
  EventSink sink(size_t i, std::function<void(const Event&)> on_event) {
    return [this, i, on_event = std::move(on_event)](const Event& event) {
      const std::lock_guard lock(mutex_);
      on_event(event);
      if (!event.finish) return;
      event.finish->status.ok() ? succeeded_.push_back(i) : status_.Update(event.finish->status);
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
  // one. `succeeded` is called on this thread with the number of each request that succeeded, soon
  // after its last event.
  absl::Status wait(Engine& engine, const std::atomic<bool>& stop,
                    const std::function<void(size_t)>& succeeded) {
    std::unique_lock lock(mutex_);
    bool cancelled = false;
    while (finished_ < ids_.size() || !succeeded_.empty()) {
      if (!succeeded_.empty()) {
        const std::vector<size_t> numbers = std::exchange(succeeded_, {});
        lock.unlock();
        for (const size_t i : numbers) succeeded(i);
        lock.lock();
      } else if (!cancelled && (stop || !all_submitted())) {
        cancelled = true;
        lock.unlock();
        for (const SeqId id : ids_) engine.cancel(id);
        lock.lock();
      } else {
        changed_.wait_for(lock, std::chrono::milliseconds(50));
      }
    }
    if (!all_submitted()) return submitted_;
    if (cancelled) return absl::CancelledError("the calibration was cancelled");
    return status_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  size_t finished_ = 0;
  std::vector<size_t> succeeded_;  // numbers that wait() has not passed on yet
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

// What a run under this attention depends on.
std::string text_of(const AttentionChoice& attention) {
  if (std::holds_alternative<DenseAttention>(attention)) return "dense";
  return to_json(*std::get<ScheduledAttention>(attention).schedule);
}

std::string text_of(const SelectionSettings& settings, SimilarityKind kind) {
  return absl::StrCat(to_json(Schedule{.selection = settings}), static_cast<int>(kind));
}

int64_t sum_of(const std::vector<int64_t>& tokens) {
  int64_t sum = 0;
  for (const int64_t count : tokens) sum += count;
  return sum;
}

std::string text_of(std::span<const Question> questions) {
  Texts texts;
  for (const Question& question : questions) {
    texts.push_back(question.tokens);
    texts.back().push_back(question.answer_begin);
  }
  return token_digest(texts);
}

// Adds the tokens of an event to those of its window.
void add_event(const Event& event, const std::vector<double>& counted, WindowComparison& window) {
  for (size_t j = 0; j < event.tokens.size(); ++j) {
    const TokenComparison& token = event.comparisons[j];
    const double logprob = event.tokens[j].logprob;
    const size_t place = window.kl.size();  // of the token in `counted`
    window.sums.add(logprob, token.second.logprob, token.kl, token.same_top1);
    window.kl.push_back(token.kl);
    window.doubt.add(static_cast<int64_t>(place) + 1, -logprob, counted[place]);
  }
  if (event.finish && event.finish->status.ok()) window.counts += event.finish->counts.at(1);
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
  const KeptRuns kept(results_, "measure", text_of(settings, kind) + token_digest(windows));
  RequestGroup group;
  std::vector<Similarity> measured(windows.size(), Similarity(model.layers, model.kv_heads));
  std::vector<std::shared_ptr<SimilarityRecorder>> recorders(windows.size());
  std::vector<int64_t> computed(windows.size(), 0);
  for (size_t i = 0; i < windows.size(); ++i) {
    if (kept.find(i, measured[i])) computed[i] = std::ssize(windows[i]);
  }
  if (sum_of(computed) > 0) done(sum_of(computed));
  for (size_t i = 0; i < windows.size() && group.all_submitted(); ++i) {
    if (computed[i] == std::ssize(windows[i])) continue;
    recorders[i] = std::make_shared<SimilarityRecorder>(
        settings, kind, shape, static_cast<int32_t>(windows[i].size()) - 1);
    auto sink = group.sink(i, [&computed, &done, i](const Event& event) {
      computed[i] = std::max<int64_t>(computed[i], event.computed_tokens);
      done(sum_of(computed));
    });
    Request request{.tokens = windows[i], .task = Observe{recorders[i]}};
    group.add(
        engine_.submit(std::move(request), {.priority = Priority::kBackground}, std::move(sink)));
  }
  const absl::Status status = group.wait(engine_, stop_, [&](size_t i) {
    measured[i] = recorders[i]->window_similarity();
    kept.keep(i, measured[i]);
  });
  if (!status.ok()) return status;
  return measured;
}

absl::StatusOr<WindowComparison> WindowRuns::compare(
    const std::shared_ptr<const Schedule>& schedule, const Texts& windows, const TokensDone& done) {
  // Windows run side by side. Neither what counting predicts nor the order of a sum may depend on
  // which one is ahead.
  const std::vector<std::vector<double>> counted = counts_nll(windows, engine_.model().vocab);
  const KeptRuns kept(results_, "compare", to_json(*schedule) + token_digest(windows));
  std::vector<WindowComparison> compared(windows.size());
  int64_t scored = 0;  // tokens of all windows
  for (size_t i = 0; i < windows.size(); ++i) {
    if (kept.find(i, compared[i])) scored += compared[i].sums.tokens;
  }
  if (scored > 0) done(scored);
  RequestGroup group;
  for (size_t i = 0; i < windows.size() && group.all_submitted(); ++i) {
    if (compared[i].sums.tokens > 0) continue;
    auto sink = group.sink(i, [&, i](const Event& event) {
      KASCADE_CHECK(event.comparisons.size() == event.tokens.size());
      add_event(event, counted[i], compared[i]);
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
  const absl::Status status =
      group.wait(engine_, stop_, [&](size_t i) { kept.keep(i, compared[i]); });
  if (!status.ok()) return status;
  return sum_of(compared);
}

absl::StatusOr<std::vector<bool>> WindowRuns::ask(const AttentionChoice& attention,
                                                  std::span<const Question> questions,
                                                  const TokensDone& done) {
  const KeptRuns kept(results_, "ask", text_of(attention) + text_of(questions));
  // One byte each: two threads look at different questions.
  std::vector<uint8_t> answered(questions.size(), 1);
  std::vector<int64_t> computed(questions.size(), 0);
  for (size_t i = 0; i < questions.size(); ++i) {
    if (kept.find(i, answered[i])) computed[i] = std::ssize(questions[i].tokens);
  }
  if (sum_of(computed) > 0) done(sum_of(computed));
  RequestGroup group;
  for (size_t i = 0; i < questions.size() && group.all_submitted(); ++i) {
    if (computed[i] == std::ssize(questions[i].tokens)) continue;
    auto sink = group.sink(i, [&, i](const Event& event) {
      for (const ScoredToken& token : event.tokens) {
        if (!token.is_top1) answered[i] = 0;
      }
      computed[i] = std::max<int64_t>(computed[i], event.computed_tokens);
      done(sum_of(computed));
    });
    Request request{.tokens = questions[i].tokens,
                    .task = Score{.first_scored = questions[i].answer_begin},
                    .attention = attention};
    group.add(
        engine_.submit(std::move(request), {.priority = Priority::kBackground}, std::move(sink)));
  }
  const absl::Status status =
      group.wait(engine_, stop_, [&](size_t i) { kept.keep(i, answered[i]); });
  if (!status.ok()) return status;
  return std::vector<bool>(answered.begin(), answered.end());
}

absl::StatusOr<std::vector<ChunkTime>> WindowRuns::time_chunks(const AttentionChoice& attention,
                                                               std::span<const Token> tokens,
                                                               const TokensDone& done) {
  const KeptRuns kept(results_, "time",
                      text_of(attention) + token_digest({{tokens.begin(), tokens.end()}}));
  const auto run = static_cast<size_t>(timed_runs_++);
  std::vector<ChunkTime> chunks;
  if (kept.find(run, chunks)) return chunks;
  int32_t fed = 0;
  absl::Time last = absl::InfinitePast();
  RequestGroup group;
  auto sink = group.sink(run, [&](const Event& event) {
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
  const absl::Status status = group.wait(engine_, stop_, [&](size_t i) { kept.keep(i, chunks); });
  if (!status.ok()) return status;
  return chunks;
}

}  // namespace kascade
