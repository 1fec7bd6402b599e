#include "server/generate_call.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "absl/time/clock.h"
#include "server/limits.h"

namespace kascade::server {
namespace {

bool fold_deltas(v1::GenerateResponse& last, v1::GenerateResponse& next) {
  if (!last.has_delta() || !next.has_delta()) return false;
  if (last.delta().token_count() + next.delta().token_count() > kMaxTokensPerMessage) return false;
  last.mutable_delta()->mutable_text()->append(next.delta().text());
  const int32_t tokens = last.delta().token_count() + next.delta().token_count();
  next.mutable_delta()->clear_text();
  last.mutable_delta()->MergeFrom(next.delta());
  last.mutable_delta()->set_token_count(tokens);
  return true;
}

}  // namespace

void GenerateCall::start(const v1::GenerateRequest& request, absl::Time deadline) {
  {
    const std::lock_guard lock(cancel_mutex_);
    if (client_gone_) return close(absl::CancelledError("the client is gone"));
  }
  auto plan = plan_generate(request, host().engine, deadline);
  if (!plan.ok()) return close(plan.status());
  plan_ = *std::move(plan);
  decoder_.emplace(host().engine.tokenizer(), plan_.stop_strings, plan_.skip_special_tokens,
                   plan_.include_stop_string, plan_.continues_text);
  host().metrics.request_prompt_tokens.Observe(static_cast<double>(plan_.request.tokens.size()));
  send_started();
  auto self = std::static_pointer_cast<GenerateCall>(shared_from_this());
  const auto id =
      host().engine.submit(plan_.request, [self](const Event& event) { self->on_event(event); });
  if (!id.ok()) return close(id.status());
  const std::lock_guard lock(cancel_mutex_);
  submitted_ = *id;
  if (client_gone_) host().engine.cancel(*id);
}

void GenerateCall::cancelled() {
  const std::lock_guard lock(cancel_mutex_);
  client_gone_ = true;
  if (submitted_) host().engine.cancel(*submitted_);
}

void GenerateCall::send_started() {
  v1::GenerateResponse response;
  auto& started = *response.mutable_started();
  started.set_prompt_tokens(static_cast<int32_t>(plan_.request.tokens.size()));
  if (plan_.send_prompt_ids) {
    started.mutable_prompt_token_ids()->Add(plan_.request.tokens.begin(),
                                            plan_.request.tokens.end());
  }
  started.set_seed(plan_.generate().sampling.seed);
  started.set_mode(to_proto(plan_.mode()));
  if (plan_.schedule) started.set_schedule_id(plan_.schedule->schedule_id);
  started.set_max_new_tokens(plan_.generate().max_new_tokens);
  send(std::move(response));
}

void GenerateCall::on_event(const Event& event) {
  if (!event.tokens.empty() && !matched_stop_) {
    observe_step(event.tokens.size());
    const bool stopped = event.finish && event.finish->reason == FinishReason::kStopToken;
    v1::GenerateResponse response;
    auto& delta = *response.mutable_delta();
    for (size_t i = 0; i < event.tokens.size(); ++i) {
      const bool is_stop_token = stopped && i + 1 == event.tokens.size();
      if (!take(event.tokens[i], is_stop_token, delta)) break;
    }
    if (matched_stop_) host().engine.cancel(event.seq);
    send(std::move(response), fold_deltas);
  }
  if (event.finish) finish(*event.finish);
}

bool GenerateCall::take(const ScoredToken& token, bool is_stop_token, v1::GenerateDelta& delta) {
  ++generated_;
  last_token_ = token.token;
  delta.set_token_count(delta.token_count() + 1);
  if (plan_.send_token_ids) delta.add_token_ids(token.token);
  if (plan_.send_logprobs) {
    delta.add_logprobs(token.logprob);
    if (token.rank > 0) delta.add_ranks(token.rank);
  }
  if (plan_.generate().top_logprobs > 0) to_proto(token.top, *delta.add_top());
  // A model's vocabulary may be padded beyond the tokenizer's: such tokens have no text.
  if (token.token >= host().engine.tokenizer().vocab_size()) return true;
  if (is_stop_token && !plan_.include_stop_string) return true;
  IncrementalDecoder::Piece piece = decoder_->push(token.token);
  delta.mutable_text()->append(piece.text);
  matched_stop_ = std::move(piece.matched_stop);
  return !matched_stop_.has_value();
}

void GenerateCall::observe_step(size_t tokens) {
  const absl::Time now = absl::Now();
  Metrics& metrics = host().metrics;
  if (!first_token_) {
    first_token_ = now;
    metrics.time_to_first_token.Observe(absl::ToDoubleSeconds(now - record().arrival()));
  } else {
    const double seconds = absl::ToDoubleSeconds(now - last_step_);
    for (size_t i = 0; i < tokens; ++i) {
      metrics.inter_token_latency.Observe(seconds / static_cast<double>(tokens));
    }
  }
  last_step_ = now;
}

void GenerateCall::finish(const kascade::Finish& finish) {
  Metrics& metrics = host().metrics;
  if (first_token_) {
    metrics.queue_time.Observe(absl::ToDoubleSeconds(finish.queued));
    metrics.prefill_time.Observe(absl::ToDoubleSeconds(finish.prefill));
    metrics.request_generated_tokens.Observe(generated_);
  }
  if (!matched_stop_ && !finish.status.ok()) return close(finish.status);
  if (!matched_stop_) {
    v1::GenerateResponse rest;
    rest.mutable_delta()->set_text(decoder_->finish());
    if (!rest.delta().text().empty()) send(std::move(rest), fold_deltas);
  }
  v1::GenerateResponse response;
  describe(finish, *response.mutable_finished());
  send(std::move(response));
  close(absl::OkStatus());
}

void GenerateCall::describe(const kascade::Finish& finish, v1::GenerateFinished& out) const {
  describe_reason(finish, out);
  out.set_prompt_tokens(static_cast<int32_t>(plan_.request.tokens.size()));
  out.set_generated_tokens(generated_);
  *out.mutable_attention() =
      report_attention(finish.counts.at(0), plan_.attention, plan_.schedule.get());
  const absl::Time now = absl::Now();
  auto& timings = *out.mutable_timings();
  timings.set_queue_seconds(absl::ToDoubleSeconds(finish.queued));
  timings.set_prefill_seconds(absl::ToDoubleSeconds(finish.prefill));
  timings.set_total_seconds(absl::ToDoubleSeconds(now - record().arrival()));
  if (first_token_) {
    timings.set_time_to_first_token_seconds(
        absl::ToDoubleSeconds(*first_token_ - record().arrival()));
    timings.set_decode_seconds(absl::ToDoubleSeconds(last_step_ - *first_token_));
  }
}

void GenerateCall::describe_reason(const kascade::Finish& finish, v1::GenerateFinished& out) const {
  if (matched_stop_) {
    out.set_reason(v1::FINISH_REASON_STOP_STRING);
    out.set_stop_string(*matched_stop_);
    return;
  }
  switch (finish.reason) {
    case FinishReason::kStopToken: {
      const auto& ends = plan_.end_tokens;
      const bool is_eos = std::find(ends.begin(), ends.end(), last_token_) != ends.end();
      out.set_reason(is_eos ? v1::FINISH_REASON_EOS_TOKEN : v1::FINISH_REASON_STOP_TOKEN);
      out.set_stop_token_id(last_token_);
      break;
    }
    case FinishReason::kMaxTokens:
      out.set_reason(v1::FINISH_REASON_MAX_NEW_TOKENS);
      break;
    case FinishReason::kContextLength:
      out.set_reason(v1::FINISH_REASON_CONTEXT_LENGTH);
      break;
    default:
      break;
  }
}

}  // namespace kascade::server
