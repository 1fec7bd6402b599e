#include "server/core/scoring_request.h"

#include <algorithm>
#include <string>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/refusal.h"
#include "server/core/limits.h"

namespace kascade::core {
namespace {

constexpr int32_t kDefaultChunk = 512;  // llama-perplexity's

// The largest window that the context and the KV cache allow. Comparisons are mostly with sparse
// attention, which a sliding window of the model limits.
int32_t largest_window(const Engine& engine, bool compares) {
  const EngineStats stats = engine.stats();
  const int64_t blocks = stats.total_blocks / (compares ? 2 : 1);
  const int64_t room = std::max<int64_t>(1, blocks * stats.block_size);
  const ModelConfig& model = engine.model();
  const int32_t context = compares ? model.unwindowed_context() : model.context;
  return static_cast<int32_t>(std::min<int64_t>(context, room)) + 1;
}

int32_t default_window(std::optional<ScoreProtocol> protocol, int32_t least, int32_t largest) {
  int32_t window = largest;
  if (protocol == ScoreProtocol::kChunk) window = std::min(kDefaultChunk, largest);
  // All tokens of a window go through the model there, the last one, too.
  if (protocol == ScoreProtocol::kStrided) window = largest - 1;
  return std::max(least, window);
}

absl::StatusOr<ScoreCut> cut_of(const ScoringRequest& in, const Engine& engine) {
  ScoreCut cut{.protocol = in.protocol, .max_tokens_per_text = in.max_tokens_per_text};
  if (in.max_tokens_per_text) {
    absl::Status status = check_max_tokens_per_text(*in.max_tokens_per_text);
    if (!status.ok()) return status;
  }
  const int32_t least = cut.protocol == ScoreProtocol::kChunk ? 3 : 2;
  if (in.window_tokens) {
    absl::Status status =
        check_range("window_tokens", *in.window_tokens, least, int64_t{engine.model().context} + 1);
    if (!status.ok()) return status;
    cut.window_tokens = *in.window_tokens;
  } else {
    const int32_t largest = largest_window(engine, in.compared_with.has_value());
    cut.window_tokens = default_window(cut.protocol, least, largest);
  }
  if (cut.protocol != ScoreProtocol::kStrided) {
    if (!in.stride_tokens) return cut;
    return invalid_field("stride_tokens",
                         absl::StrCat("goes with protocol STRIDED only, got ", *in.stride_tokens));
  }
  cut.stride_tokens = in.stride_tokens.value_or(cut.window_tokens / 2);
  absl::Status status =
      check_range("stride_tokens", cut.stride_tokens, 1, int64_t{cut.window_tokens} - 1);
  if (!status.ok()) return status;
  return cut;
}

absl::Status resolve_runs(const ScoringRequest& in, const Schedules& schedules,
                          PreparedScoring& out) {
  auto attention = resolve(in.attention, schedules);
  if (!attention.ok()) return attention.status();
  out.attention = *std::move(attention);
  if (!in.compared_with) return absl::OkStatus();
  auto compared_with = resolve(in.compared_with, schedules);
  if (!compared_with.ok()) return compared_with.status();
  out.compared_with = *std::move(compared_with);
  return absl::OkStatus();
}

// What does not follow from the inputs.
absl::Status prepare_options(const ScoringRequest& in, const Engine& engine,
                             const Schedules& schedules, PreparedScoring& out) {
  if (absl::Status status = resolve_runs(in, schedules, out); !status.ok()) return status;
  const bool per_query = in.granularity == SelectionGranularity::kPerQuery;
  if (in.tile_comparison && !(out.compares() && per_query)) {
    return invalid_field("tile_comparison", "goes with mode COMPARE and phase ROW only");
  }
  auto cut = cut_of(in, engine);
  if (!cut.ok()) return cut.status();
  out.cut = *cut;
  return absl::OkStatus();
}

absl::Status make_sequences(const ScoringRequest& in, const Engine& engine, RequestGuard& guard,
                            PreparedScoring& out) {
  const auto encoder = PromptEncoder::create(engine, in.prompt_options);
  if (!encoder.ok()) return encoder.status();
  const bool parse_special_tokens = in.prompt_options.parse_special_tokens.value_or(false);
  for (size_t i = 0; i < in.inputs.size(); ++i) {
    auto sequence = make_sequence(in.inputs[i], absl::StrCat("inputs[", i, "]"), out.cut,
                                  parse_special_tokens, *encoder, engine.tokenizer(), guard);
    if (!sequence.ok()) return sequence.status();
    out.inputs.push_back(*std::move(sequence));
  }
  return absl::OkStatus();
}

}  // namespace

int64_t PreparedScoring::tokens_to_score() const {
  int64_t sum = 0;
  for (const ScoreSequence& input : inputs) sum += input.tokens_to_score;
  return sum;
}

int32_t PreparedScoring::windows() const {
  size_t sum = 0;
  for (const ScoreSequence& input : inputs) sum += input.windows.size();
  return static_cast<int32_t>(sum);
}

int64_t PreparedScoring::running_memory(int32_t vocab) const {
  // A scoring counts how often each token occurs in an input, and sums over what it has scored.
  constexpr int64_t kCountedTokenBytes = 64;
  constexpr int64_t kInputBytes = 2048;
  int64_t memory = 0;
  int64_t largest_window = 0;
  for (const ScoreSequence& input : inputs) {
    memory += kInputBytes + kCountedTokenBytes * std::min<int64_t>(vocab, input.tokens_to_score);
    for (const ScoreWindow& window : input.windows) {
      largest_window = std::max<int64_t>(largest_window, window.count);
    }
  }
  const int64_t scored = tokens_to_score();
  if (compares()) memory += static_cast<int64_t>(passes()) * scored * int64_t{sizeof(float)};
  const int64_t in_engine =
      std::min<int64_t>(kMaxParallelInputs, static_cast<int64_t>(inputs.size())) * largest_window;
  memory += 2 * in_engine * int64_t{sizeof(Token)};
  if (!send_tokens) return memory;
  const int64_t sent = sent_token_bytes(top_logprobs);
  return memory + std::min(scored * sent, static_cast<int64_t>(kMaxUnsentBytes) + in_engine * sent);
}

Request PreparedScoring::request(size_t input, size_t window, size_t pass) const {
  const ScoreSequence& sequence = inputs[input];
  const ScoreWindow& cut_window = sequence.windows[window];
  const auto begin = sequence.tokens.begin() + cut_window.begin;
  Request out;
  out.tokens.assign(begin, begin + cut_window.count);
  std::ranges::copy(sequence.window_start, out.tokens.begin());
  out.task = Score{.first_scored = cut_window.first_scored,
                   .granularity = pass == 0 ? granularity : SelectionGranularity::kPerTile,
                   .want_ranks = send_ranks,
                   .top_logprobs = top_logprobs};
  out.attention = attention;
  out.compared_with = compared_with;
  out.deadline = deadline;
  return out;
}

Request PreparedScoring::longest_request() const {
  size_t input = 0, window = 0;
  const auto tokens = [this](size_t i, size_t w) { return inputs[i].windows[w].count; };
  for (size_t i = 0; i < inputs.size(); ++i) {
    for (size_t w = 0; w < inputs[i].windows.size(); ++w) {
      if (tokens(i, w) > tokens(input, window)) std::tie(input, window) = std::pair(i, w);
    }
  }
  return request(input, window, /*pass=*/0);
}

absl::Status check_options(const ScoringRequest& in, const Engine& engine,
                           const Schedules& schedules) {
  PreparedScoring out;
  if (absl::Status status = prepare_options(in, engine, schedules, out); !status.ok()) {
    return status;
  }
  return PromptEncoder::create(engine, in.prompt_options).status();
}

absl::StatusOr<PreparedScoring> prepare(const ScoringRequest& in, const Engine& engine,
                                        const Schedules& schedules, RequestGuard& guard) {
  guard.set_deadline(in.deadline);
  PreparedScoring out{.granularity = in.granularity,
                      .tile_comparison = in.tile_comparison,
                      .send_tokens = in.send_tokens || in.send_ranks || in.top_logprobs > 0,
                      .send_ranks = in.send_ranks,
                      .top_logprobs = in.top_logprobs,
                      .priority = in.priority,
                      .client = in.client,
                      .deadline = in.deadline};
  if (absl::Status status = check_text_count("inputs", in.inputs.size()); !status.ok()) {
    return status;
  }
  if (absl::Status status = prepare_options(in, engine, schedules, out); !status.ok()) {
    return status;
  }
  if (absl::Status status = make_sequences(in, engine, guard, out); !status.ok()) {
    return status;
  }
  // All windows ask for the same but for their tokens, and those were encoded or checked above.
  absl::Status status = validate(out.request(0, 0, 0), limits_of(engine.model()));
  if (!status.ok()) return status;
  status = guard.hold_more(out.running_memory(engine.model().vocab));
  if (!status.ok()) return status;
  return out;
}

}  // namespace kascade::core
