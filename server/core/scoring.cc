#include "server/core/scoring.h"

#include <algorithm>
#include <utility>

#include "engine/base/clock.h"
#include "server/core/limits.h"

namespace kascade::core {
namespace {

constexpr absl::Duration kProgressInterval = absl::Milliseconds(250);

}  // namespace

void Scoring::start(const ScoringRequest& request, const std::shared_ptr<const void>& owner) {
  {
    const std::lock_guard lock(mutex_);
    if (stopped_) return;
  }
  owner_ = owner;
  auto prepared = prepare(request, context_.engine, context_.schedules, guard_);
  if (!prepared.ok()) return sink_.ended(prepared.status());
  if (!begin(*std::move(prepared))) return;
  // If the longest window fits, all do.
  auto admitted = context_.engine.admit(request_.longest_request(), submission(false));
  if (!admitted.ok()) return fail(admitted.status());
  {
    const std::lock_guard lock(mutex_);
    admitted_ = *std::move(admitted);
  }
  report_start();
  submit_ready();
}

void Scoring::cancel() {
  guard_.cancel();
  fail(absl::CancelledError("the client is gone"));
}

void Scoring::resume() {
  if (sink_.unsent_bytes() < kMaxUnsentBytes) submit_ready();
}

bool Scoring::begin(PreparedScoring prepared) {
  const std::lock_guard lock(mutex_);
  request_ = std::move(prepared);
  progress_.resize(request_.inputs.size(), Progress(context_.engine.model().vocab));
  const auto parallel = std::min(request_.inputs.size(), static_cast<size_t>(kMaxParallelInputs));
  while (next_input_ < parallel) ready_.push_back(next_input_++);
  int64_t tokens = 0;
  for (size_t i = 0; i < progress_.size(); ++i) {
    progress_[i].totals[0].words = request_.inputs[i].words_scored;
    progress_[i].totals[0].bytes = request_.inputs[i].bytes_scored;
    progress_[i].first_difference = tokens;
    tokens += request_.inputs[i].tokens_to_score;
  }
  for (size_t pass = 0; request_.compares() && pass < request_.passes(); ++pass) {
    differences_[pass].resize(static_cast<size_t>(tokens));
  }
  return !stopped_;
}

void Scoring::report_start() {
  ScoringStarted started{
      .request = request_, .protocol = protocol(), .begins_with_bos = begin_with_bos()};
  for (const ScoreSequence& input : request_.inputs) {
    started.tokens += static_cast<int64_t>(input.tokens.size());
    started.words_to_score += input.words_scored;
    started.bytes_to_score += input.bytes_scored;
  }
  sink_.started(started);
}

void Scoring::submit_ready() {
  absl::Status status;
  {
    const std::lock_guard lock(mutex_);
    while (status.ok() && !stopped_ && !ready_.empty() && sink_.unsent_bytes() < kMaxUnsentBytes) {
      const size_t input = ready_.front();
      ready_.pop_front();
      status = submit(input);
    }
  }
  if (!status.ok()) fail(status);
}

absl::Status Scoring::submit(size_t input) {
  Progress& progress = progress_[input];
  Request window = request_.request(input, progress.window, progress.pass);
  EventSink sink = [this, input, owner = owner_.lock()](const Event& event) {
    on_event(input, event);
  };
  // What was admitted once goes on: past a full queue, and while the server drains. The first
  // window to come is that of input 0.
  auto admitted = std::exchange(admitted_, std::nullopt);
  const auto id =
      admitted.has_value()
          ? context_.engine.submit(std::move(window), *std::move(admitted), std::move(sink))
          : context_.engine.submit(std::move(window), submission(true), std::move(sink));
  if (!id.ok()) return id.status();
  progress.seq = *id;
  return absl::OkStatus();
}

void Scoring::on_event(size_t input, const Event& event) {
  std::vector<Message> messages;
  absl::Status status;
  bool all_ended = false;
  {
    const std::lock_guard lock(mutex_);
    if (event.finish) progress_[input].seq.reset();
    if (stopped_) return;
    take(input, event, messages);
    if (event.finish) {
      status = event.finish->status;
      if (status.ok()) end_window(input, *event.finish, messages);
      all_ended = ended_ == request_.inputs.size();
    }
  }
  if (!status.ok()) return fail(status);
  send(messages);
  if (all_ended) {
    compare_with_dense();
    return sink_.ended(absl::OkStatus());  // whoever waits for it may destroy the context
  }
  if (event.finish) submit_ready();
}

void Scoring::take(size_t input, const Event& event, std::vector<Message>& out) {
  if (event.tokens.empty()) return;
  Progress& progress = progress_[input];
  ScoreTotals& totals = progress.totals[progress.pass];
  const ScoreWindow& window = request_.inputs[input].windows[progress.window];
  if (progress.pass == 0) {
    add_doubt(event.tokens, window.first_scored + progress.scored, progress);
  }
  for (size_t i = 0; i < event.tokens.size(); ++i) {
    if (i < event.comparisons.size()) {
      const auto place = static_cast<size_t>(progress.first_difference + totals.tokens);
      differences_[progress.pass][place] =
          logprob_difference(event.tokens[i], event.comparisons[i]);
      totals.add(event.tokens[i], event.comparisons[i]);
    } else {
      totals.add(event.tokens[i]);
    }
  }
  if (request_.send_tokens && progress.pass == 0) {
    out.emplace_back(
        ScoredColumns{.input = static_cast<int32_t>(input),
                      .first_position = window.begin + window.first_scored + progress.scored,
                      .tokens = event.tokens,
                      .comparisons = event.comparisons});
  }
  progress.scored += static_cast<int32_t>(event.tokens.size());
  tokens_done_ += static_cast<int64_t>(event.tokens.size());
  add_progress(out);
}

void Scoring::add_doubt(std::span<const ScoredToken> tokens, int64_t context, Progress& progress) {
  for (const ScoredToken& token : tokens) {
    progress.totals[0].doubt.add(context++, -double{token.logprob},
                                 progress.token_counts.add(token.token));
  }
}

void Scoring::end_window(size_t input, const Finish& finish, std::vector<Message>& out) {
  Progress& progress = progress_[input];
  context_.metrics.queue_time.Observe(absl::ToDoubleSeconds(finish.queued));
  ScoreTotals& totals = progress.totals[progress.pass];
  if (!finish.counts.empty()) totals.counts += finish.counts.front();
  if (finish.counts.size() > 1) totals.second_counts += finish.counts[1];
  progress.scored = 0;
  progress.pass = (progress.pass + 1) % request_.passes();
  if (progress.pass == 0) ++progress.window;
  if (progress.window < request_.inputs[input].windows.size()) {
    ready_.push_front(input);
    return;
  }
  ++ended_;
  out.emplace_back(summary_of(input));
  if (next_input_ < request_.inputs.size()) ready_.push_back(next_input_++);
  if (ended_ == request_.inputs.size()) out.emplace_back(total());
}

void Scoring::add_progress(std::vector<Message>& out) {
  const absl::Time now = steady_now();
  if (now - last_progress_ < kProgressInterval) return;
  last_progress_ = now;
  ScoringProgress progress{
      .tokens_done = tokens_done_,
      .tokens_total = request_.tokens_to_score() * static_cast<int64_t>(request_.passes())};
  const double seconds = absl::ToDoubleSeconds(now - arrival_);
  if (seconds > 0) progress.tokens_per_second = static_cast<double>(tokens_done_) / seconds;
  out.emplace_back(progress);
}

ScoringSummary Scoring::summary_of(size_t input) {
  const ScoreSequence& sequence = request_.inputs[input];
  ScoringSummary summary{.request = request_,
                         .input = static_cast<int32_t>(input),
                         .protocol = sequence.protocol,
                         .windows = static_cast<int32_t>(sequence.windows.size()),
                         .tokens = static_cast<int64_t>(sequence.tokens.size()),
                         .begins_with_bos = sequence.begins_with_bos};
  describe(progress_[input].totals, progress_[input].first_difference, summary);
  return summary;
}

ScoringSummary Scoring::total() {
  ScoringSummary summary{.request = request_,
                         .input = std::nullopt,
                         .protocol = protocol(),
                         .windows = request_.windows(),
                         .begins_with_bos = begin_with_bos()};
  Totals sums;
  for (size_t i = 0; i < request_.inputs.size(); ++i) {
    for (size_t pass = 0; pass < sums.size(); ++pass) sums[pass] += progress_[i].totals[pass];
    summary.tokens += static_cast<int64_t>(request_.inputs[i].tokens.size());
  }
  describe(sums, /*first_difference=*/0, summary);
  return summary;
}

void Scoring::describe(const Totals& totals, int64_t first_difference, ScoringSummary& out) {
  out.tokens_scored = totals[0].tokens;
  out.words_scored = totals[0].words;
  out.bytes_scored = totals[0].bytes;
  out.figures = figures_of(totals[0], context_.engine.model().vocab);
  const bool suspect = out.figures.suspect;
  out.pass = describe_pass(totals[0], 0, suspect, first_difference);
  if (request_.tile_comparison) {
    out.tile_pass = describe_pass(totals[1], 1, suspect, first_difference);
  }
}

PassSummary Scoring::describe_pass(const ScoreTotals& totals, size_t pass, bool suspect,
                                   int64_t first_difference) {
  PassSummary out{.counts = totals.counts, .second_counts = totals.second_counts};
  if (!request_.compares()) return out;
  const std::span<float> differences = differences_[pass];
  out.comparison = compare(totals, suspect,
                           differences.subspan(static_cast<size_t>(first_difference),
                                               static_cast<size_t>(totals.tokens)));
  return out;
}

ScoreProtocol Scoring::protocol() const {
  if (request_.cut.protocol) return *request_.cut.protocol;
  const bool cut = std::ranges::any_of(request_.inputs, [](const ScoreSequence& input) {
    return input.protocol == ScoreProtocol::kRolling;
  });
  return cut ? ScoreProtocol::kRolling : ScoreProtocol::kWhole;
}

bool Scoring::begin_with_bos() const {
  return std::ranges::all_of(request_.inputs, &ScoreSequence::begins_with_bos);
}

void Scoring::send(const std::vector<Message>& messages) {
  for (const Message& message : messages) {
    if (const auto* columns = std::get_if<ScoredColumns>(&message)) sink_.columns(*columns);
    if (const auto* progress = std::get_if<ScoringProgress>(&message)) sink_.progress(*progress);
    if (const auto* summary = std::get_if<ScoringSummary>(&message)) sink_.summary(*summary);
  }
}

// The first window of the first input stands for the request: any other would do as well.
void Scoring::compare_with_dense() {
  if (context_.shadow == nullptr || request_.compares()) return;
  if (!context_.shadow->draw(request_.attention)) return;
  Request window = request_.request(0, 0, 0);
  auto& score = std::get<Score>(window.task);
  score.want_ranks = false;
  score.top_logprobs = 0;
  context_.shadow->compare(metrics::ShadowKind::kScore, std::move(window));
}

void Scoring::fail(const absl::Status& status) {
  std::vector<SeqId> running;
  {
    const std::lock_guard lock(mutex_);
    if (stopped_) return;
    stopped_ = true;
    admitted_.reset();
    for (const Progress& progress : progress_) {
      if (progress.seq) running.push_back(*progress.seq);
    }
  }
  for (const SeqId id : running) context_.engine.cancel(id);
  sink_.ended(status);
}

}  // namespace kascade::core
