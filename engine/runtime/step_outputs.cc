#include "engine/runtime/step_outputs.h"

#include <algorithm>
#include <utility>

#include "engine/sampling/sampler.h"

namespace kascade {
namespace {

bool contains(const std::vector<Token>& tokens, Token token) {
  return std::ranges::find(tokens, token) != tokens.end();
}

}  // namespace

StepOutputs::StepOutputs(int32_t max_sequences, Transformer& transformer,
                         const Scheduler& scheduler, EngineStats& stats)
    : transformer_(transformer),
      scheduler_(scheduler),
      stats_(stats),
      scorer_(transformer),
      generate_hidden_(
          transformer.backend().allocate(DType::kF32, max_sequences, transformer.config().hidden)),
      generate_logits_(
          transformer.backend().allocate(DType::kF32, max_sequences, transformer.config().vocab)) {}

std::vector<Outcome> StepOutputs::decide(const StepLayout& layout, Tensor hidden,
                                         StepEvents& events) {
  std::vector<Outcome> outcomes;
  for (size_t i = 0; i < layout.slices.size(); ++i) {
    const auto& [slice, sequence, policy] = layout.slices[i];
    Event& event = events[slice->seq];
    event.seq = slice->seq;
    event.computed_tokens = slice->begin + slice->count;
    if (slice->branch != 0 || layout.built.logits[i].count == 0) continue;
    if (std::holds_alternative<Score>(ActiveRequest::of(*sequence).task)) {
      score(layout, i, hidden, outcomes, event);
    }
  }
  generate(layout, hidden, outcomes, events);
  return outcomes;
}

void StepOutputs::generate(const StepLayout& layout, Tensor hidden, std::vector<Outcome>& outcomes,
                           StepEvents& events) {
  std::vector<SeqId> ids;
  std::vector<int32_t> hidden_rows;
  for (size_t i = 0; i < layout.slices.size(); ++i) {
    const LogitSpan span = layout.built.logits[i];
    if (span.count == 0 || !layout.slices[i].sequence->spec.generates) continue;
    hidden_rows.push_back(span.first);
    ids.push_back(layout.slices[i].slice->seq);
  }
  if (ids.empty()) return;
  Backend& backend = transformer_.backend();
  const auto rows = static_cast<int64_t>(ids.size());
  const auto vocab = static_cast<size_t>(transformer_.config().vocab);
  const Tensor logits = generate_logits_.first_rows(rows);
  backend.gather_rows(hidden, hidden_rows, generate_hidden_.first_rows(rows));
  transformer_.logits(generate_hidden_.first_rows(rows), logits);
  logits_.resize(ids.size() * vocab);
  backend.download(logits, std::as_writable_bytes(std::span(logits_)));
  for (size_t row = 0; row < ids.size(); ++row) {
    const auto outcome =
        sample_row(ids[row], std::span(logits_).subspan(row * vocab, vocab), events[ids[row]]);
    if (outcome.has_value()) outcomes.push_back(*outcome);
  }
}

std::optional<Outcome> StepOutputs::sample_row(SeqId id, std::span<const float> logits,
                                               Event& event) {
  const Sequence& sequence = *scheduler_.find(id);
  ActiveRequest& request = ActiveRequest::of(sequence);
  const Generate& params = std::get<Generate>(request.task);
  const std::span<const Token> tokens(sequence.tokens);
  const auto prompt = static_cast<size_t>(request.prompt_tokens);
  const size_t before = tokens.size() - prompt;
  absl::StatusOr<ScoredToken> drawn =
      sample(logits, params, tokens.first(prompt), tokens.subspan(prompt), before);
  if (!drawn.ok()) {
    request.finish = Finish{.reason = FinishReason::kError, .status = drawn.status()};
    return Outcome{.seq = id, .generated = {}, .finished = true};
  }
  const Token token = drawn->token;
  ++stats_.generated_tokens;
  event.tokens.push_back(*std::move(drawn));
  if (contains(params.stop_tokens, token)) {
    request.finish = Finish{.reason = FinishReason::kStopToken};
  } else if (static_cast<int32_t>(before) + 1 >= params.max_new_tokens) {
    request.finish = Finish{.reason = FinishReason::kMaxTokens};
  } else if (static_cast<int32_t>(tokens.size()) + 1 >= transformer_.config().context) {
    request.finish = Finish{.reason = FinishReason::kContextLength};
  }
  return Outcome{.seq = id, .generated = token, .finished = request.finish.has_value()};
}

void StepOutputs::score(const StepLayout& layout, size_t index, Tensor hidden,
                        std::vector<Outcome>& outcomes, Event& event) {
  const auto& [slice, sequence, policy] = layout.slices[index];
  absl::Status status;
  if (sequence->spec.branches == 2) {
    status = compare(layout, index, hidden, event);
  } else {
    const LogitSpan span = layout.built.logits[index];
    const Score& task = std::get<Score>(ActiveRequest::of(*sequence).task);
    const auto targets =
        std::span<const Token>(sequence->tokens).subspan(span.first_position + 1, span.count);
    auto scored = scorer_.score(hidden.slice_rows(span.first, span.count), targets,
                                span.first_position + 1, {task.want_ranks, task.top_logprobs});
    status = scored.status();
    if (status.ok()) event.tokens = *std::move(scored);
  }
  stats_.scored_tokens += static_cast<int64_t>(event.tokens.size());
  if (status.ok()) return;
  ActiveRequest::of(*sequence).finish =
      Finish{.reason = FinishReason::kError, .status = std::move(status)};
  outcomes.push_back({.seq = slice->seq, .generated = {}, .finished = true});
}

absl::Status StepOutputs::compare(const StepLayout& layout, size_t index, Tensor hidden,
                                  Event& event) {
  const auto& [slice, sequence, policy] = layout.slices[index];
  const auto second = std::ranges::find_if(layout.slices, [&](const PlannedSlice& other) {
    return other.slice->seq == slice->seq && other.slice->branch == 1;
  });
  const LogitSpan span = layout.built.logits[index];
  const LogitSpan other = layout.built.logits[second - layout.slices.begin()];
  const Score& task = std::get<Score>(ActiveRequest::of(*sequence).task);
  const auto targets =
      std::span<const Token>(sequence->tokens).subspan(span.first_position + 1, span.count);
  auto compared = scorer_.compare(hidden.slice_rows(span.first, span.count),
                                  hidden.slice_rows(other.first, other.count), targets,
                                  span.first_position + 1, {task.want_ranks, task.top_logprobs});
  if (!compared.ok()) return compared.status();
  event.tokens = std::move(compared->first);
  event.comparisons = std::move(compared->comparisons);
  return absl::OkStatus();
}

}  // namespace kascade
