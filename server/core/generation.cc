#include "server/core/generation.h"

#include <algorithm>
#include <random>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/check.h"
#include "engine/base/clock.h"
#include "engine/base/refusal.h"
#include "server/core/limits.h"

namespace kascade::core {
namespace {

uint64_t random_seed() {
  std::random_device device;
  return (uint64_t{device()} << 32) | device();
}

absl::Status check_stops(const GenerationRequest& request) {
  if (request.stop_strings.size() > kMaxStopStrings) {
    return invalid_field("stop_strings", absl::StrCat("at most ", kMaxStopStrings, ", got ",
                                                      request.stop_strings.size()));
  }
  for (size_t i = 0; i < request.stop_strings.size(); ++i) {
    const size_t size = request.stop_strings[i].size();
    if (size >= 1 && size <= kMaxStopStringBytes) continue;
    return invalid_field(
        absl::StrCat("stop_strings[", i, "]"),
        absl::StrCat("must have 1 to ", kMaxStopStringBytes, " bytes, has ", size));
  }
  if (request.stop_tokens.size() <= kMaxRequestStopTokens) return absl::OkStatus();
  return invalid_field("stop_tokens", absl::StrCat("at most ", kMaxRequestStopTokens, ", got ",
                                                   request.stop_tokens.size()));
}

Generate task_of(const GenerationRequest& request, int32_t context) {
  Generate task{
      .sampling = request.sampling,
      .max_new_tokens = request.max_new_tokens.value_or(std::min(kDefaultMaxNewTokens, context)),
      .min_new_tokens = request.min_new_tokens,
      .stop_tokens = request.stop_tokens,
      .want_logprobs = request.want_logprobs,
      .top_logprobs = request.top_logprobs};
  task.sampling.seed = request.seed ? *request.seed : random_seed();
  return task;
}

// Of what the engine reports without a failure.
GenerationEnd end_of(FinishReason reason, bool is_end_token) {
  switch (reason) {
    case FinishReason::kStopToken:
      return is_end_token ? GenerationEnd::kEosToken : GenerationEnd::kStopToken;
    case FinishReason::kContextLength:
      return GenerationEnd::kContextLength;
    default:
      return GenerationEnd::kMaxNewTokens;
  }
}

}  // namespace

void Generation::start(GenerationRequest request, std::shared_ptr<const void> owner) {
  {
    const std::lock_guard lock(cancel_mutex_);
    if (cancelled_) return sink_.ended(absl::CancelledError("the client is gone"));
  }
  const Submission options{.priority = request.priority, .client = request.client};
  absl::Status status = prepare(std::move(request));
  if (status.ok()) status = submit(options, std::move(owner));
  if (!status.ok()) sink_.ended(status);
}

absl::Status Generation::submit(const Submission& options, std::shared_ptr<const void> owner) {
  auto admitted = context_.engine.admit(request_, options);
  if (!admitted.ok()) return admitted.status();
  context_.metrics.request_prompt_tokens.Observe(static_cast<double>(request_.tokens.size()));
  report_start();
  const auto id = context_.engine.submit(
      request_, *std::move(admitted),
      [this, owner = std::move(owner)](const Event& event) { on_event(event); });
  if (!id.ok()) return id.status();
  const std::lock_guard lock(cancel_mutex_);
  submitted_ = *id;
  if (cancelled_) context_.engine.cancel(*id);
  return absl::OkStatus();
}

void Generation::cancel() {
  guard_.cancel();
  const std::lock_guard lock(cancel_mutex_);
  cancelled_ = true;
  if (submitted_) context_.engine.cancel(*submitted_);
}

absl::Status Generation::prepare(GenerationRequest request) {
  const Engine& engine = context_.engine;
  const ModelConfig& model = engine.model();
  guard_.set_deadline(request.deadline);
  if (absl::Status status = check_stops(request); !status.ok()) return status;
  auto attention = resolve(request.attention, context_.schedules);
  if (!attention.ok()) return attention.status();
  auto prompt = encode_prompt(request.prompt, request.prompt_options, engine, guard_,
                              int64_t{model.context} - 1);
  if (!prompt.ok()) return prompt.status();
  request_ = {.tokens = std::move(prompt->tokens),
              .task = task_of(request, model.context),
              .attention = *std::move(attention),
              .deadline = request.deadline};
  if (absl::Status status = validate(request_, limits_of(model)); !status.ok()) return status;
  if (context_.shadow != nullptr && context_.shadow->draw(request_.attention)) {
    shadowed_.emplace();
  }
  if (absl::Status status = hold_memory(); !status.ok()) return status;
  if (!request.ignore_eos) {
    end_tokens_ = model.eos_tokens;
    end_tokens_.insert(end_tokens_.end(), prompt->end_tokens.begin(), prompt->end_tokens.end());
    auto& stops = std::get<Generate>(request_.task).stop_tokens;
    stops.insert(stops.end(), end_tokens_.begin(), end_tokens_.end());
  }
  include_stop_ = request.include_stop;
  decoder_.emplace(engine.tokenizer(), std::move(request.stop_strings), request.skip_special_tokens,
                   include_stop_, prompt->continues_text);
  return absl::OkStatus();
}

// Beside the prompt: the engine's copy of it, the one in the first message, and what the client may
// leave unread.
absl::Status Generation::hold_memory() {
  const auto prompt = static_cast<int64_t>(request_.tokens.size());
  const int64_t room = context_.engine.model().context - prompt;
  const int64_t unread =
      std::min<int64_t>(room, task().max_new_tokens) * sent_token_bytes(task().top_logprobs);
  const int64_t kept = shadowed_ ? room * int64_t{sizeof(Token)} : 0;
  return guard_.hold_more(prompt * int64_t{3 * sizeof(Token)} + kept +
                          std::min(unread, static_cast<int64_t>(kMaxUnsentBytes)));
}

void Generation::report_start() {
  sink_.started({.prompt_tokens = request_.tokens,
                 .seed = task().sampling.seed,
                 .max_new_tokens = task().max_new_tokens,
                 .attention = request_.attention});
}

void Generation::on_event(const Event& event) {
  if (!event.tokens.empty() && !matched_stop_) {
    observe_step(event.tokens.size());
    const bool stopped = event.finish && event.finish->reason == FinishReason::kStopToken;
    GenerationDelta delta;
    size_t taken = 0;
    for (bool more = true; more && taken < event.tokens.size();) {
      const bool is_stop_token = stopped && taken + 1 == event.tokens.size();
      more = take(event.tokens[taken++], is_stop_token, delta.text);
    }
    if (matched_stop_) context_.engine.cancel(event.seq);
    delta.tokens = std::span(event.tokens).first(taken);
    sink_.delta(std::move(delta));
  }
  if (event.finish) finish(*event.finish);
}

bool Generation::take(const ScoredToken& token, bool is_stop_token, std::string& text) {
  ++generated_;
  last_token_ = token.token;
  if (shadowed_) shadowed_->push_back(token.token);
  // A model's vocabulary may be padded beyond the tokenizer's: such tokens have no text.
  if (token.token >= context_.engine.tokenizer().vocab_size()) return true;
  if (is_stop_token && !include_stop_) return true;
  KASCADE_CHECK(decoder_.has_value());  // start() made it
  IncrementalDecoder::Piece piece = decoder_->push(token.token);
  text += piece.text;
  matched_stop_ = std::move(piece.matched_stop);
  return !matched_stop_.has_value();
}

void Generation::observe_step(size_t tokens) {
  const absl::Time now = steady_now();
  if (!first_token_) {
    first_token_ = now;
    context_.metrics.time_to_first_token.Observe(absl::ToDoubleSeconds(now - arrival_));
  } else {
    const double seconds = absl::ToDoubleSeconds(now - last_step_);
    for (size_t i = 0; i < tokens; ++i) {
      context_.metrics.inter_token_latency.Observe(seconds / static_cast<double>(tokens));
    }
  }
  last_step_ = now;
}

void Generation::finish(const Finish& finish) {
  if (first_token_) {
    context_.metrics.queue_time.Observe(absl::ToDoubleSeconds(finish.queued));
    context_.metrics.prefill_time.Observe(absl::ToDoubleSeconds(finish.prefill));
    context_.metrics.request_generated_tokens.Observe(generated_);
  }
  // A matched stop string cancels the sequence, so that its status is CANCELLED then.
  if (!matched_stop_) {
    if (!finish.status.ok()) return sink_.ended(finish.status);
    KASCADE_CHECK(decoder_.has_value());  // start() made it
    if (std::string rest = decoder_->finish(); !rest.empty()) {
      sink_.delta({.text = std::move(rest), .tokens = {}});
    }
  }
  sink_.finished(describe(finish));
  compare_with_dense();
  sink_.ended(absl::OkStatus());  // whoever waits for it may destroy the context
}

// Decoding selects per query, as a Score does by default.
void Generation::compare_with_dense() {
  if (!shadowed_ || shadowed_->empty()) return;
  const auto prompt = static_cast<int32_t>(request_.tokens.size());
  Request again{.tokens = std::move(request_.tokens),
                .task = Score{.first_scored = prompt},
                .attention = request_.attention};
  again.tokens.insert(again.tokens.end(), shadowed_->begin(), shadowed_->end());
  shadowed_.reset();
  context_.shadow->compare(metrics::ShadowKind::kGenerate, std::move(again));
}

GenerationFinished Generation::describe(const Finish& finish) const {
  const bool is_end_token = std::ranges::find(end_tokens_, last_token_) != end_tokens_.end();
  return {.end = matched_stop_ ? GenerationEnd::kStopString : end_of(finish.reason, is_end_token),
          .stop_string = matched_stop_,
          .last_token = last_token_,
          .prompt_tokens = static_cast<int32_t>(request_.tokens.size()),
          .generated_tokens = generated_,
          .attention = request_.attention,
          .counts = finish.counts.empty() ? AttentionCounts{} : finish.counts.front(),
          .timings = timings(finish)};
}

GenerationTimings Generation::timings(const Finish& finish) const {
  GenerationTimings out{
      .queued = finish.queued, .prefill = finish.prefill, .total = steady_now() - arrival_};
  if (first_token_) {
    out.to_first_token = *first_token_ - arrival_;
    out.decode = last_step_ - *first_token_;
  }
  return out;
}

}  // namespace kascade::core
