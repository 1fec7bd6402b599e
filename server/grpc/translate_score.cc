#include "server/grpc/translate_score.h"

#include <algorithm>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/grpc/message_size.h"
#include "server/grpc/translate_attention.h"
#include "server/grpc/translate_generate.h"
#include "server/grpc/translate_priority.h"

namespace kascade::server {
namespace {

absl::StatusOr<SelectionGranularity> read_phase(const v1::ScoreRequest& in) {
  switch (in.phase()) {
    case v1::SELECTION_PHASE_UNSPECIFIED:
    case v1::SELECTION_PHASE_ROW:
      return SelectionGranularity::kPerQuery;
    case v1::SELECTION_PHASE_TILE:
      return SelectionGranularity::kPerTile;
    default:
      return invalid_field("phase", absl::StrCat("unknown value ", int{in.phase()}));
  }
}

absl::StatusOr<std::optional<core::ScoreProtocol>> read_protocol(const v1::ScoreRequest& in) {
  switch (in.protocol()) {
    case v1::SCORE_PROTOCOL_UNSPECIFIED:
      return std::nullopt;
    case v1::SCORE_PROTOCOL_WHOLE:
      return core::ScoreProtocol::kWhole;
    case v1::SCORE_PROTOCOL_ROLLING:
      return core::ScoreProtocol::kRolling;
    case v1::SCORE_PROTOCOL_CHUNK:
      return core::ScoreProtocol::kChunk;
    case v1::SCORE_PROTOCOL_STRIDED:
      return core::ScoreProtocol::kStrided;
    default:
      return invalid_field("protocol", absl::StrCat("unknown value ", int{in.protocol()}));
  }
}

v1::ScoreProtocol to_proto(core::ScoreProtocol protocol) {
  switch (protocol) {
    case core::ScoreProtocol::kWhole:
      return v1::SCORE_PROTOCOL_WHOLE;
    case core::ScoreProtocol::kRolling:
      return v1::SCORE_PROTOCOL_ROLLING;
    case core::ScoreProtocol::kChunk:
      return v1::SCORE_PROTOCOL_CHUNK;
    case core::ScoreProtocol::kStrided:
      return v1::SCORE_PROTOCOL_STRIDED;
  }
  return v1::SCORE_PROTOCOL_UNSPECIFIED;
}

v1::SelectionPhase to_proto(SelectionGranularity granularity) {
  return granularity == SelectionGranularity::kPerQuery ? v1::SELECTION_PHASE_ROW
                                                        : v1::SELECTION_PHASE_TILE;
}

v1::AttentionMode mode_of_request(const core::PreparedScoring& request) {
  return request.compares() ? v1::ATTENTION_MODE_COMPARE : mode_of(request.attention);
}

absl::StatusOr<core::ScoreInput> read_input(const v1::ScoreInput& in, const std::string& field) {
  switch (in.input_case()) {
    case v1::ScoreInput::kText:
      if (in.has_context_tokens()) {
        return invalid_field(field + ".context_tokens",
                             "goes with token_ids; use context with text");
      }
      return core::TextToScore{.text = in.text(), .context = in.context()};
    case v1::ScoreInput::kTokenIds:
      if (in.has_context()) {
        return invalid_field(field + ".context",
                             "goes with text; use context_tokens with token_ids");
      }
      return core::TokensToScore{.tokens = span_of(in.token_ids().ids()),
                                 .context_tokens = in.context_tokens()};
    case v1::ScoreInput::INPUT_NOT_SET:
      break;
  }
  return invalid_field(field, "either text or token_ids must be set");
}

void fill(const core::ComparisonFigures& in, v1::Comparison& out) {
  out.set_sparse_nll_sum(in.second_nll_sum);
  out.set_sparse_mean_nll_standard_error(in.second_mean_nll_error);
  out.set_sparse_perplexity(in.second_perplexity);
  out.set_sparse_perplexity_standard_error(in.second_perplexity_error);
  out.set_mean_logprob_difference(in.mean_difference);
  out.set_mean_logprob_difference_standard_error(in.mean_difference_error);
  if (in.degradation_percent) out.set_degradation_percent(*in.degradation_percent);
  if (in.degradation_percent_error) {
    out.set_degradation_percent_standard_error(*in.degradation_percent_error);
  }
  out.set_mean_kl(in.mean_kl);
  out.set_mean_kl_standard_error(in.mean_kl_error);
  out.set_max_kl(in.max_kl);
  out.set_same_top1_ratio(in.same_top1_ratio);
  out.set_max_logprob_difference(in.max_difference);
  for (const core::Percentile& percentile : in.percentiles) {
    auto& entry = *out.add_logprob_difference_percentiles();
    entry.set_percent(percentile.percent);
    entry.set_difference(percentile.difference);
  }
}

void fill(const core::RunFigures& in, v1::ScoreSummary& out) {
  out.set_nll_sum(in.nll_sum);
  out.set_mean_nll(in.mean_nll);
  out.set_mean_nll_standard_error(in.mean_nll_error);
  out.set_perplexity(in.perplexity);
  out.set_perplexity_standard_error(in.perplexity_error);
  if (in.bits_per_byte) out.set_bits_per_byte(*in.bits_per_byte);
  if (in.byte_perplexity) out.set_byte_perplexity(*in.byte_perplexity);
  if (in.word_perplexity) out.set_word_perplexity(*in.word_perplexity);
  out.set_top1_ratio(in.top1_ratio);
  out.set_suspect(in.suspect);
  out.mutable_doubts()->Assign(in.doubts.begin(), in.doubts.end());
  if (!in.suspect && in.doubts.empty()) return;
  for (const std::string_view cause : core::suspect_causes()) {
    out.add_suspect_causes(std::string(cause));
  }
}

// The reports of a pass: of the first run in a comparison, unless it is dense, and of the run.
struct PassReports {
  std::optional<v1::AttentionReport> first{};
  v1::AttentionReport attention{};
};
PassReports reports_of(const core::PassSummary& pass, const core::PreparedScoring& request) {
  const v1::AttentionMode mode = mode_of_request(request);
  if (!request.compares()) {
    return {.attention = report_attention(pass.counts, request.attention, mode)};
  }
  PassReports out{.attention = report_attention(pass.second_counts, *request.compared_with, mode)};
  if (!std::holds_alternative<DenseAttention>(request.attention)) {
    out.first = report_attention(pass.counts, request.attention, mode);
  }
  return out;
}

}  // namespace

absl::StatusOr<core::ScoringRequest> read_score(const v1::ScoreRequest& in, int32_t layers,
                                                absl::Time deadline) {
  core::ScoringRequest out;
  const auto phase = read_phase(in);
  if (!phase.ok()) return phase.status();
  out.granularity = *phase;
  auto attention = read_attention(in.attention(), layers, /*may_compare=*/true);
  if (!attention.ok()) return attention.status();
  out.attention = std::move(attention->attention);
  out.compared_with = std::move(attention->compared_with);
  out.tile_comparison = in.tile_comparison();
  const auto protocol = read_protocol(in);
  if (!protocol.ok()) return protocol.status();
  out.protocol = *protocol;
  if (in.has_window_tokens()) out.window_tokens = in.window_tokens();
  if (in.has_stride_tokens()) out.stride_tokens = in.stride_tokens();
  if (in.has_max_tokens_per_text()) out.max_tokens_per_text = in.max_tokens_per_text();
  out.prompt_options = read_prompt_options(in);
  out.send_tokens = in.response().tokens();
  out.send_ranks = in.response().ranks();
  out.top_logprobs = in.response().top_logprobs();
  out.deadline = deadline;
  const absl::Status priority = read_priority(in.priority(), out.priority);
  if (!priority.ok()) return priority;
  for (int i = 0; i < in.inputs_size(); ++i) {
    auto input = read_input(in.inputs(i), absl::StrCat("inputs[", i, "]"));
    if (!input.ok()) return input.status();
    out.inputs.push_back(*std::move(input));
  }
  return out;
}

std::vector<FieldName> score_fields(const v1::ScoreRequest& in) {
  std::vector<FieldName> names{{"tokens[", "token_ids.ids["},
                               {"top_logprobs", "response.top_logprobs"}};
  const std::vector<FieldName> attention = attention_fields(in.attention());
  names.insert(names.end(), attention.begin(), attention.end());
  return names;
}

void to_proto(const core::ScoringStarted& started, v1::ScoreStarted& out) {
  const core::PreparedScoring& request = started.request;
  out.set_inputs(static_cast<int32_t>(request.inputs.size()));
  out.set_tokens_to_score(request.tokens_to_score());
  out.set_windows(request.windows());
  out.set_mode(mode_of_request(request));
  const AttentionChoice& told = request.compared_with.value_or(request.attention);
  if (const auto schedule = schedule_of(told)) out.set_schedule_id(schedule->schedule_id);
  to_proto(request.attention, *out.mutable_first());
  if (request.compared_with) to_proto(*request.compared_with, *out.mutable_second());
  out.set_phase(to_proto(request.granularity));
  out.set_window_tokens(request.cut.window_tokens);
  out.set_stride_tokens(request.cut.stride_tokens);
  out.set_protocol(to_proto(started.protocol));
  out.set_begins_with_bos(started.begins_with_bos);
  out.set_tokens(started.tokens);
  out.set_words_to_score(started.words_to_score);
  out.set_bytes_to_score(started.bytes_to_score);
}

void to_proto(const core::ScoringProgress& progress, v1::ScoreProgress& out) {
  out.set_tokens_done(progress.tokens_done);
  out.set_tokens_total(progress.tokens_total);
  out.set_tokens_per_second(progress.tokens_per_second);
}

void to_proto(const core::ScoringSummary& summary, v1::ScoreSummary& out) {
  const core::PreparedScoring& request = summary.request;
  if (summary.input) out.set_input_index(*summary.input);
  out.set_protocol(to_proto(summary.protocol));
  out.set_windows(summary.windows);
  out.set_tokens(summary.tokens);
  out.set_begins_with_bos(summary.begins_with_bos);
  out.set_tokens_scored(summary.tokens_scored);
  out.set_words_scored(summary.words_scored);
  out.set_bytes_scored(summary.bytes_scored);
  fill(summary.figures, out);
  PassReports reports = reports_of(summary.pass, request);
  *out.mutable_attention() = std::move(reports.attention);
  if (reports.first) *out.mutable_first_attention() = *std::move(reports.first);
  if (summary.pass.comparison) fill(*summary.pass.comparison, *out.mutable_comparison());
  if (summary.tile_pass) {
    PassReports tile = reports_of(*summary.tile_pass, request);
    fill(*summary.tile_pass->comparison, *out.mutable_tile_comparison());
    *out.mutable_tile_attention() = std::move(tile.attention);
    if (tile.first) *out.mutable_tile_first_attention() = *std::move(tile.first);
  }
  out.set_phase(to_proto(request.granularity));
  out.set_window_tokens(request.cut.window_tokens);
  out.set_stride_tokens(request.cut.stride_tokens);
}

std::vector<v1::ScoreTokens> to_proto(const core::ScoredColumns& scored,
                                      const ScoreColumns& columns) {
  std::vector<v1::ScoreTokens> out;
  for (size_t i = 0; i < scored.tokens.size(); ++i) {
    if (i % kMaxTokensPerMessage == 0) {
      out.emplace_back().set_input_index(scored.input);
      out.back().set_first_position(scored.first_position + static_cast<int64_t>(i));
    }
    v1::ScoreTokens& message = out.back();
    const ScoredToken& token = scored.tokens[i];
    message.add_token_ids(token.token);
    message.add_logprobs(token.logprob);
    message.add_top1(token.is_top1);
    if (columns.ranks) message.add_ranks(token.rank);
    if (columns.top) to_proto(token.top, *message.add_top());
    if (i >= scored.comparisons.size()) continue;
    const TokenComparison& comparison = scored.comparisons[i];
    message.add_sparse_logprobs(comparison.second.logprob);
    if (columns.ranks) message.add_sparse_ranks(comparison.second.rank);
    message.add_kl(comparison.kl);
  }
  return out;
}

}  // namespace kascade::server
