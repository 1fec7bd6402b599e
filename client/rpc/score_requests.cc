#include "client/rpc/score_requests.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <iterator>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <utility>

#include "client/rpc/score_stream.h"
#include "client/rpc/score_totals.h"
#include "tools/terminal/progress.h"

namespace kascade::client {
namespace {

constexpr std::chrono::milliseconds kFirstPause{250};

std::span<const NamedText> texts_of(const std::vector<NamedText>& texts, TextRange range) {
  return std::span(texts).subspan(range.begin, range.end - range.begin);
}

// Moves the results of one request after those of the requests before it.
void append(ScoreRun&& part, bool wants_tokens, ScoreRun& run) {
  const auto index = [&](int32_t own) { return own + static_cast<int32_t>(run.summaries.size()); };
  for (v1::ScoreSummary& summary : part.summaries) {
    summary.set_input_index(index(summary.input_index()));
  }
  if (!wants_tokens) {
    for (auto& tokens : part.tokens) tokens.clear();
  }
  const auto move = [](auto& from, auto& to) {
    to.insert(to.end(), std::make_move_iterator(from.begin()), std::make_move_iterator(from.end()));
  };
  move(part.summaries, run.summaries);
  move(part.tokens, run.tokens);
  move(part.spelled, run.spelled);
}

// The requests of one command. Threads take one range after the other; results are joined in the
// order of the ranges.
class Requests {
 public:
  Requests(const Globals& globals, v1::InferenceService::Stub& stub,
           const v1::ScoreRequest& options, const std::vector<NamedText>& texts,
           const ScoreRequests& how, int32_t vocab_size, ScoreRun& run)
      : globals_(globals),
        stub_(stub),
        options_(options),
        texts_(texts),
        how_(how),
        wants_tokens_(options.response().tokens()),
        ranges_(request_ranges(texts, how.size)),
        totals_(vocab_size),
        done_(ranges_.size()),
        run_(run) {
    // The percentiles of a comparison follow from all its tokens.
    if (options_.attention().mode() == v1::ATTENTION_MODE_COMPARE) {
      options_.mutable_response()->set_tokens(true);
    }
  }

  absl::Status run() {
    std::vector<std::thread> threads;
    for (size_t i = 1; i < std::min(how_.at_once, ranges_.size()); ++i) {
      threads.emplace_back([this] { work(); });
    }
    work();
    for (std::thread& thread : threads) thread.join();
    if (status_.ok() && ranges_.size() > 1) run_.total = totals_.total();
    return status_;
  }

 private:
  void work() {
    while (const auto next = take()) {
      ScoreRun part;
      const absl::Status status = score(ranges_[*next], part);
      const std::lock_guard lock(mutex_);
      if (status.ok()) done_[*next] = std::move(part);
      fail(status);
      join_results();
    }
  }
  std::optional<size_t> take() {
    const std::lock_guard lock(mutex_);
    if (!status_.ok() || next_ == ranges_.size()) return std::nullopt;
    return next_++;
  }
  // Again, elsewhere, if the server is lost.
  absl::Status score(TextRange range, ScoreRun& part) {
    for (int attempt = 1;; ++attempt) {
      part = ScoreRun();
      const absl::Status status =
          stream_score(globals_, stub_, options_, texts_of(texts_, range), {}, part);
      if (!absl::IsUnavailable(status) || attempt >= how_.attempts) return status;
      fmt::print(stderr, "kascade: warning: {}; {} is scored again\n",
                 std::string(status.message()), texts_[range.begin].name());
      std::this_thread::sleep_for(kFirstPause * (1 << (attempt - 1)));
    }
  }
  // With mutex_ held, as the next one. The first error ends all.
  void fail(const absl::Status& status) {
    if (status.ok() || !status_.ok()) return;
    status_ = status;
    cancel_calls();
  }
  void join_results() {
    for (; status_.ok() && joined_ < ranges_.size() && done_[joined_]; ++joined_) {
      ScoreRun part = *std::exchange(done_[joined_], std::nullopt);
      if (joined_ == 0) {
        run_.started = part.started;
        run_.total = part.total;
      }
      if (part.started.schedule_id() != run_.started.schedule_id()) {
        fail(absl::FailedPreconditionError(
            "another schedule was activated between the requests that these texts need; score "
            "again"));
        return;
      }
      totals_.add(part.total, part.tokens);
      append(std::move(part), wants_tokens_, run_);
      display_.show({.stage = "scoring",
                     .done = static_cast<int64_t>(run_.summaries.size()),
                     .total = static_cast<int64_t>(texts_.size())});
    }
  }

  const Globals& globals_;
  v1::InferenceService::Stub& stub_;
  v1::ScoreRequest options_;
  const std::vector<NamedText>& texts_;
  const ScoreRequests how_;
  const bool wants_tokens_;
  const std::vector<TextRange> ranges_;

  std::mutex mutex_;  // guards what follows
  ScoreTotals totals_;
  std::vector<std::optional<ScoreRun>> done_;  // [ranges] until joined
  ScoreRun& run_;
  ProgressDisplay display_;
  size_t next_ = 0;
  size_t joined_ = 0;
  absl::Status status_;
};

absl::Status score_once(const Globals& globals, v1::InferenceService::Stub& stub,
                        const v1::ScoreRequest& request, const std::vector<NamedText>& texts,
                        ScoreRun& run) {
  ProgressDisplay display;
  const auto show = [&display](const v1::ScoreProgress& progress) {
    display.show({.stage = "scoring",
                  .done = progress.tokens_done(),
                  .total = progress.tokens_total(),
                  .tokens_per_second = progress.tokens_per_second()});
  };
  return stream_score(globals, stub, request, texts, show, run);
}

}  // namespace

std::vector<TextRange> request_ranges(const std::vector<NamedText>& texts,
                                      const RequestSize& size) {
  std::vector<TextRange> ranges;
  size_t bytes = 0;
  for (size_t i = 0; i < texts.size(); ++i) {
    const size_t own = texts[i].text.size();
    const bool starts =
        ranges.empty() || i - ranges.back().begin == size.texts || bytes + own > size.bytes;
    if (starts) {
      ranges.push_back({.begin = i});
      bytes = 0;
    }
    bytes += own;
    ranges.back().end = i + 1;
  }
  return ranges;
}

absl::Status score_texts(const Globals& globals, v1::InferenceService::Stub& stub,
                         const v1::ScoreRequest& request, const std::vector<NamedText>& texts,
                         ScoreRun& run, const ScoreRequests& how) {
  for (const NamedText& text : texts) {
    run.files.push_back(text.file);
    if (text.line > 0) run.lines.push_back(text.line);
  }
  if (how.attempts == 1 && request_ranges(texts, how.size).size() == 1) {
    return score_once(globals, stub, request, texts, run);
  }
  const auto info =
      call(globals, stub, &v1::InferenceService::Stub::GetModelInfo, v1::GetModelInfoRequest());
  if (!info.ok()) return info.status();
  return Requests(globals, stub, request, texts, how, info->model().vocab_size(), run).run();
}

}  // namespace kascade::client
