#include "server/score_call.h"

#include <algorithm>
#include <span>
#include <string>
#include <utility>

#include "absl/time/clock.h"
#include "server/errors.h"
#include "server/limits.h"
#include "server/translate.h"

namespace kascade::server {
namespace {

constexpr absl::Duration kProgressInterval = absl::Milliseconds(250);

bool fold(v1::ScoreResponse& last, v1::ScoreResponse& next) {
  if (last.has_progress() && next.has_progress()) {
    last.Swap(&next);
    return true;
  }
  if (!last.has_tokens() || !next.has_tokens()) return false;
  const auto& tokens = last.tokens();
  const bool adjoins =
      tokens.input_index() == next.tokens().input_index() &&
      tokens.first_position() + tokens.token_ids_size() == next.tokens().first_position() &&
      tokens.token_ids_size() + next.tokens().token_ids_size() <= kMaxTokensPerMessage;
  if (!adjoins) return false;
  const int64_t first = tokens.first_position();
  last.mutable_tokens()->MergeFrom(next.tokens());
  last.mutable_tokens()->set_first_position(first);
  return true;
}

v1::SelectionPhase to_proto(SelectionGranularity phase) {
  return phase == SelectionGranularity::kPerQuery ? v1::SELECTION_PHASE_ROW
                                                  : v1::SELECTION_PHASE_TILE;
}

}  // namespace

void ScoreCall::start(const v1::ScoreRequest& request, absl::Time deadline) {
  {
    const std::lock_guard lock(mutex_);
    if (failed_) return;  // the client is gone
  }
  auto plan = plan_score(request, host().engine, deadline);
  if (!plan.ok()) return close(plan.status());
  bool gone = false;
  {
    const std::lock_guard lock(mutex_);
    gone = failed_;
    plan_ = *std::move(plan);
    progress_.resize(plan_.inputs.size());
    const auto parallel = std::min(plan_.inputs.size(), static_cast<size_t>(kMaxParallelInputs));
    while (next_input_ < static_cast<int>(parallel)) ready_.push_back(next_input_++);
    int64_t tokens = 0;
    for (size_t i = 0; i < progress_.size(); ++i) {
      progress_[i].totals[0].words = plan_.inputs[i].words_scored;
      progress_[i].totals[0].bytes = plan_.inputs[i].bytes_scored;
      progress_[i].first_difference = tokens;
      tokens += plan_.inputs[i].tokens_to_score;
    }
    for (size_t pass = 0; compares() && pass < plan_.passes(); ++pass) {
      differences_[pass].resize(static_cast<size_t>(tokens));
    }
  }
  if (gone) return;
  send_started();
  submit_ready();
}

void ScoreCall::cancelled() { fail(absl::CancelledError("the client is gone")); }

void ScoreCall::written() {
  if (unsent_bytes() < kMaxUnsentBytes) submit_ready();
}

void ScoreCall::send_started() {
  v1::ScoreResponse response;
  auto& started = *response.mutable_started();
  started.set_inputs(static_cast<int32_t>(plan_.inputs.size()));
  started.set_tokens_to_score(plan_.tokens_to_score());
  started.set_windows(plan_.windows());
  started.set_mode(server::to_proto(plan_.attention.mode));
  if (plan_.schedule) started.set_schedule_id(plan_.schedule->schedule_id);
  started.set_phase(to_proto(plan_.phase));
  started.set_window_tokens(plan_.cut.window_tokens);
  started.set_stride_tokens(plan_.cut.stride_tokens);
  started.set_protocol(protocol());
  started.set_begins_with_bos(begin_with_bos());
  int64_t tokens = 0, words = 0, bytes = 0;
  for (const ScoreSequence& input : plan_.inputs) {
    tokens += static_cast<int64_t>(input.tokens.size());
    words += input.words_scored;
    bytes += input.bytes_scored;
  }
  started.set_tokens(tokens);
  started.set_words_to_score(words);
  started.set_bytes_to_score(bytes);
  send(std::move(response));
}

void ScoreCall::submit_ready() {
  absl::Status status;
  {
    const std::lock_guard lock(mutex_);
    while (status.ok() && !failed_ && !ready_.empty() && unsent_bytes() < kMaxUnsentBytes) {
      const int input = ready_.front();
      ready_.pop_front();
      status = submit(input);
    }
  }
  if (!status.ok()) fail(status);
}

absl::Status ScoreCall::submit(int input) {
  auto self = std::static_pointer_cast<ScoreCall>(shared_from_this());
  // What was admitted once goes on: with its schedule, past a full queue, and while draining.
  const auto id =
      host().engine.submit(request_of(input), {.is_continuation = admitted_},
                           [self, input](const Event& event) { self->on_event(input, event); });
  if (!id.ok()) return id.status();
  admitted_ = true;
  progress_[static_cast<size_t>(input)].seq = *id;
  return absl::OkStatus();
}

Request ScoreCall::request_of(int input) const {
  const auto index = static_cast<size_t>(input);
  const ScoreSequence& sequence = plan_.inputs[index];
  const Progress& progress = progress_[index];
  const ScoreWindow& window = sequence.windows[progress.window];
  const auto begin = sequence.tokens.begin() + window.begin;
  Request request;
  request.tokens.assign(begin, begin + window.count);
  std::ranges::copy(sequence.window_start, request.tokens.begin());
  request.task =
      Score{.first_scored = window.first_scored,
            .granularity = progress.pass == 0 ? plan_.phase : SelectionGranularity::kPerTile,
            .want_ranks = plan_.send_ranks,
            .top_logprobs = plan_.top_logprobs};
  if (plan_.attention.mode == Mode::kSparse) {
    request.attention = plan_.attention.sparse(plan_.schedule);
  } else if (plan_.attention.mode == Mode::kCompare) {
    request.compared_with = plan_.attention.sparse(plan_.schedule);
  }
  request.deadline = plan_.deadline;
  return request;
}

void ScoreCall::on_event(int input, const Event& event) {
  std::vector<v1::ScoreResponse> messages;
  absl::Status status;
  bool all_ended = false;
  {
    const std::lock_guard lock(mutex_);
    if (event.finish) {
      progress_[static_cast<size_t>(input)].seq.reset();
    }
    if (failed_) return;
    take(input, event, messages);
    if (event.finish) {
      status = event.finish->status;
      if (status.ok()) end_window(input, *event.finish, messages);
      all_ended = ended_ == static_cast<int>(plan_.inputs.size());
    }
  }
  if (!status.ok()) return fail(status);
  for (v1::ScoreResponse& message : messages) send(std::move(message), fold);
  if (all_ended) return close(absl::OkStatus());
  if (event.finish) submit_ready();
}

void ScoreCall::take(int input, const Event& event, std::vector<v1::ScoreResponse>& out) {
  if (event.tokens.empty()) return;
  Progress& progress = progress_[static_cast<size_t>(input)];
  ScoreTotals& totals = progress.totals[progress.pass];
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
  if (plan_.send_tokens && progress.pass == 0) add_columns(input, event, out);
  progress.scored += static_cast<int32_t>(event.tokens.size());
  tokens_done_ += static_cast<int64_t>(event.tokens.size());
  add_progress(out);
}

void ScoreCall::end_window(int input, const kascade::Finish& finish,
                           std::vector<v1::ScoreResponse>& out) {
  Progress& progress = progress_[static_cast<size_t>(input)];
  host().metrics.queue_time.Observe(absl::ToDoubleSeconds(finish.queued));
  progress.totals[progress.pass].counts += finish.counts.back();
  progress.scored = 0;
  progress.pass = (progress.pass + 1) % plan_.passes();
  if (progress.pass == 0) ++progress.window;
  if (progress.window < plan_.inputs[static_cast<size_t>(input)].windows.size()) {
    ready_.push_front(input);
    return;
  }
  ++ended_;
  add_summary(input, out);
  if (next_input_ < static_cast<int>(plan_.inputs.size())) ready_.push_back(next_input_++);
  if (ended_ == static_cast<int>(plan_.inputs.size())) add_total(out);
}

void ScoreCall::add_columns(int input, const Event& event,
                            std::vector<v1::ScoreResponse>& out) const {
  const Progress& progress = progress_[static_cast<size_t>(input)];
  const ScoreWindow& window = plan_.inputs[static_cast<size_t>(input)].windows[progress.window];
  const int64_t first = window.begin + window.first_scored + progress.scored;
  v1::ScoreTokens* tokens = nullptr;
  for (size_t i = 0; i < event.tokens.size(); ++i) {
    if (i % kMaxTokensPerMessage == 0) {
      tokens = out.emplace_back().mutable_tokens();
      tokens->set_input_index(input);
      tokens->set_first_position(first + static_cast<int64_t>(i));
    }
    const ScoredToken& token = event.tokens[i];
    tokens->add_token_ids(token.token);
    tokens->add_logprobs(token.logprob);
    tokens->add_top1(token.is_top1);
    if (plan_.send_ranks) tokens->add_ranks(token.rank);
    if (plan_.top_logprobs > 0) server::to_proto(token.top, *tokens->add_top());
    if (i >= event.comparisons.size()) continue;
    tokens->add_sparse_logprobs(event.comparisons[i].second.logprob);
    if (plan_.send_ranks) tokens->add_sparse_ranks(event.comparisons[i].second.rank);
    tokens->add_kl(event.comparisons[i].kl);
  }
}

void ScoreCall::add_progress(std::vector<v1::ScoreResponse>& out) {
  const absl::Time now = absl::Now();
  if (now - last_progress_ < kProgressInterval) return;
  last_progress_ = now;
  auto& progress = *out.emplace_back().mutable_progress();
  progress.set_tokens_done(tokens_done_);
  progress.set_tokens_total(plan_.tokens_to_score() * static_cast<int64_t>(plan_.passes()));
  const double seconds = absl::ToDoubleSeconds(record().elapsed());
  if (seconds > 0) progress.set_tokens_per_second(static_cast<double>(tokens_done_) / seconds);
}

void ScoreCall::add_summary(int input, std::vector<v1::ScoreResponse>& out) {
  const ScoreSequence& sequence = plan_.inputs[static_cast<size_t>(input)];
  auto& summary = *out.emplace_back().mutable_summary();
  summary.set_input_index(input);
  summary.set_protocol(sequence.protocol);
  summary.set_windows(static_cast<int32_t>(sequence.windows.size()));
  summary.set_tokens(static_cast<int64_t>(sequence.tokens.size()));
  summary.set_begins_with_bos(sequence.begins_with_bos);
  const Progress& progress = progress_[static_cast<size_t>(input)];
  describe(progress.totals, progress.first_difference, summary);
}

void ScoreCall::add_total(std::vector<v1::ScoreResponse>& out) {
  auto& total = *out.emplace_back().mutable_total();
  Totals sums;
  int64_t tokens = 0;
  for (size_t i = 0; i < plan_.inputs.size(); ++i) {
    for (size_t pass = 0; pass < sums.size(); ++pass) sums[pass] += progress_[i].totals[pass];
    tokens += static_cast<int64_t>(plan_.inputs[i].tokens.size());
  }
  total.set_protocol(protocol());
  total.set_begins_with_bos(begin_with_bos());
  total.set_windows(plan_.windows());
  total.set_tokens(tokens);
  describe(sums, /*first_difference=*/0, total);
}

v1::ScoreProtocol ScoreCall::protocol() const {
  if (plan_.cut.protocol != v1::SCORE_PROTOCOL_UNSPECIFIED) return plan_.cut.protocol;
  const bool cut = std::ranges::any_of(plan_.inputs, [](const ScoreSequence& input) {
    return input.protocol == v1::SCORE_PROTOCOL_ROLLING;
  });
  return cut ? v1::SCORE_PROTOCOL_ROLLING : v1::SCORE_PROTOCOL_WHOLE;
}

bool ScoreCall::begin_with_bos() const {
  return std::ranges::all_of(plan_.inputs, &ScoreSequence::begins_with_bos);
}

void ScoreCall::describe(const Totals& totals, int64_t first_difference, v1::ScoreSummary& out) {
  const auto add_comparison = [&](size_t pass, v1::Comparison& comparison) {
    const std::span<float> all = differences_[pass];
    compare(totals[pass], out.suspect(),
            all.subspan(static_cast<size_t>(first_difference),
                        static_cast<size_t>(totals[pass].tokens)),
            comparison);
  };
  const auto report = [&](size_t pass) {
    return report_attention(totals[pass].counts, plan_.attention, plan_.schedule.get());
  };
  summarize(totals[0], host().engine.model().vocab, out);
  *out.mutable_attention() = report(0);
  if (compares()) add_comparison(0, *out.mutable_comparison());
  if (plan_.tile_comparison) {
    add_comparison(1, *out.mutable_tile_comparison());
    *out.mutable_tile_attention() = report(1);
  }
  out.set_phase(to_proto(plan_.phase));
  out.set_window_tokens(plan_.cut.window_tokens);
  out.set_stride_tokens(plan_.cut.stride_tokens);
}

void ScoreCall::fail(const absl::Status& status) {
  std::vector<SeqId> running;
  {
    const std::lock_guard lock(mutex_);
    if (failed_) return;
    failed_ = true;
    for (const Progress& progress : progress_) {
      if (progress.seq) running.push_back(*progress.seq);
    }
  }
  for (const SeqId id : running) host().engine.cancel(id);
  close(status);
}

}  // namespace kascade::server
