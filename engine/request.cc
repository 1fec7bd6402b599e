#include "engine/request.h"

#include <algorithm>
#include <initializer_list>
#include <limits>
#include <string>

#include "absl/strings/str_cat.h"
#include "engine/base/refusal.h"

namespace kascade {
namespace {

constexpr double kLargestFactor = 1e6;  // of temperature and repetition_penalty
constexpr float kMaxBias = 100;

absl::Status first_error(std::initializer_list<absl::Status> checks) {
  for (const absl::Status& status : checks) {
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status check_token(const std::string& field, Token token, int32_t vocab) {
  if (token >= 0 && token < vocab) return absl::OkStatus();
  return invalid_field(field, absl::StrCat("must be in [0, ", vocab, "), got ", token),
                       reason::kUnknownToken);
}

absl::Status check_biases(const std::vector<std::pair<Token, float>>& biases, int32_t vocab) {
  if (std::ssize(biases) > kMaxLogitBiases) {
    return invalid_field(
        "logit_bias", absl::StrCat("at most ", kMaxLogitBiases, " entries, got ", biases.size()));
  }
  std::vector<Token> seen;
  for (size_t i = 0; i < biases.size(); ++i) {
    const auto& [token, bias] = biases[i];
    const std::string field = absl::StrCat("logit_bias[", i, "]");
    absl::Status status = first_error(
        {check_token(field + ".token", token, vocab),
         check_range(field + ".bias", double{bias}, double{-kMaxBias}, double{kMaxBias})});
    if (!status.ok()) return status;
    if (std::ranges::find(seen, token) != seen.end()) {
      return invalid_field(field + ".token", absl::StrCat(token, " comes twice"));
    }
    seen.push_back(token);
  }
  return absl::OkStatus();
}

absl::Status check_sampling(const Sampling& sampling, int32_t vocab) {
  return first_error(
      {check_range("temperature", sampling.temperature, 0, kLargestFactor),
       check_range("top_k", sampling.top_k, 0, INT32_MAX),
       check_positive("top_p", sampling.top_p, 1), check_range("min_p", sampling.min_p, 0, 1),
       check_positive("repetition_penalty", sampling.repetition_penalty, kLargestFactor),
       check_range("presence_penalty", sampling.presence_penalty, -2, 2),
       check_range("frequency_penalty", sampling.frequency_penalty, -2, 2),
       check_biases(sampling.logit_bias, vocab)});
}

absl::Status check_stop_tokens(const std::vector<Token>& tokens, int32_t vocab) {
  if (std::ssize(tokens) > kMaxStopTokens) {
    return invalid_field("stop_tokens",
                         absl::StrCat("at most ", kMaxStopTokens, ", got ", tokens.size()));
  }
  return check_tokens("stop_tokens", tokens, vocab);
}

absl::Status check_generate(const Generate& task, int64_t prompt, const ModelLimits& model) {
  absl::Status status = first_error(
      {check_sampling(task.sampling, model.vocab), check_stop_tokens(task.stop_tokens, model.vocab),
       check_range("max_new_tokens", task.max_new_tokens, 1, model.context),
       check_range("min_new_tokens", task.min_new_tokens, 0, task.max_new_tokens),
       check_range("top_logprobs", task.top_logprobs, 0, kMaxTopLogprobs)});
  if (!status.ok() || prompt < model.context) return status;
  return invalid_field(
      "tokens",
      absl::StrCat("the prompt has ", prompt, " tokens; at most ", model.context - 1,
                   " leave room for a new one in the model's context"),
      reason::kTooLong);
}

absl::Status check_score(const Score& task, int64_t size, const ModelLimits& model) {
  if (size > int64_t{model.context} + 1) {
    return invalid_field(
        "tokens",
        absl::StrCat("at most ", model.context + 1, " can be scored in one window, got ", size),
        reason::kTooLong);
  }
  return first_error({check_range("first_scored", task.first_scored, 1, size - 1),
                      check_range("top_logprobs", task.top_logprobs, 0, kMaxTopLogprobs)});
}

absl::Status check_observe(const Request& request, const ModelLimits& model) {
  const auto size = static_cast<int64_t>(request.tokens.size());
  const Observe& task = std::get<Observe>(request.task);
  if (task.observer == nullptr) return invalid_field("observer", "must be set");
  absl::Status status =
      check_range("per_query_from", task.per_query_from, 0, std::numeric_limits<int32_t>::max());
  if (!status.ok()) return status;
  if (size >= 2 && size <= int64_t{model.context} + 1) return absl::OkStatus();
  return invalid_field("tokens", absl::StrCat("an observed text has 2 to ", model.context + 1,
                                              " tokens, got ", size));
}

absl::Status check_task(const Request& request, const ModelLimits& model) {
  const auto size = static_cast<int64_t>(request.tokens.size());
  if (const auto* generate = std::get_if<Generate>(&request.task)) {
    return check_generate(*generate, size, model);
  }
  if (const auto* score = std::get_if<Score>(&request.task)) {
    return check_score(*score, size, model);
  }
  return check_observe(request, model);
}

absl::Status check_schedule(const std::string& field, const ScheduledAttention& attention) {
  if (attention.ratio) {
    absl::Status status = check_positive(field + ".ratio", *attention.ratio, 1);
    if (!status.ok()) return status;
  }
  if (attention.dense_below) {
    absl::Status status =
        check_range(field + ".dense_below", *attention.dense_below, 0, kMaxDenseBelow);
    if (!status.ok()) return status;
  }
  if (!attention.schedule) {
    return refuse(absl::StatusCode::kFailedPrecondition,
                  absl::StrCat(field, ": no schedule is active"),
                  {.reason = reason::kNoSchedule,
                   .field = field,
                   .subject = "schedule",
                   .remedy = "make a schedule by calibration, or activate one"});
  }
  if (attention.ratio && attention.schedule->selection.family != Family::kKascade) {
    return invalid_field(field + ".ratio", "the schedule is of family tile, which has no ratio");
  }
  return absl::OkStatus();
}

absl::Status check_baseline(const std::string& field, const BaselineAttention& baseline,
                            int32_t layers) {
  const bool quest = baseline.kind == BaselineKind::kQuest;
  absl::Status status = first_error(
      {check_positive(field + ".ratio", baseline.ratio, 1),
       check_range(field + ".min_keys", baseline.min_keys, 0, kMaxBaselineKeys),
       check_range(field + ".sink_keys", baseline.sink_keys, 0, quest ? 0 : kMaxBaselineKeys),
       check_range(field + ".page_size", baseline.page_size, 1, kMaxPageSize)});
  if (status.ok() && baseline.kind == BaselineKind::kWindow) {
    status = check_range(field + ".window", baseline.window, 1, kMaxBaselineKeys);
  }
  if (status.ok() && baseline.kind == BaselineKind::kChunk) {
    status = check_range(field + ".chunk", baseline.chunk, 1, kMaxBaselineKeys);
  }
  for (size_t i = 0; status.ok() && i < baseline.dense_layers.size(); ++i) {
    status = check_range(absl::StrCat(field, ".dense_layers[", i, "]"), baseline.dense_layers[i], 0,
                         layers - 1);
  }
  return status;
}

absl::Status check_attention(const std::string& field, const AttentionChoice& choice,
                             int32_t layers) {
  if (const auto* scheduled = std::get_if<ScheduledAttention>(&choice)) {
    return check_schedule(field + ".schedule", *scheduled);
  }
  if (const auto* baseline = std::get_if<BaselineAttention>(&choice)) {
    return check_baseline(field + ".baseline", *baseline, layers);
  }
  return absl::OkStatus();
}

absl::Status check_comparison(const Request& request, int32_t layers) {
  if (!request.compared_with) return absl::OkStatus();
  if (!std::holds_alternative<Score>(request.task)) {
    return invalid_field("compared_with", "goes with a text to score only");
  }
  return check_attention("compared_with", *request.compared_with, layers);
}

// The most positions of the request. The last token of a text is not fed, nor is the last generated
// one.
int64_t most_positions(const Request& request, const ModelLimits& model) {
  const auto size = static_cast<int64_t>(request.tokens.size());
  const auto* generate = std::get_if<Generate>(&request.task);
  return std::min<int64_t>(size - 1 + (generate ? generate->max_new_tokens : 0), model.context);
}

bool outgrows_window(const Request& request, const ModelLimits& model) {
  return model.sliding_window && most_positions(request, model) > *model.sliding_window;
}

absl::Status check_window(const Request& request, const ModelLimits& model) {
  if (!outgrows_window(request, model)) return absl::OkStatus();
  const bool is_observed = std::holds_alternative<Observe>(request.task);
  const bool first = is_observed || !is_dense(request.attention);
  if (!first && (!request.compared_with || is_dense(*request.compared_with))) {
    return absl::OkStatus();
  }
  return invalid_field(
      first ? "attention" : "compared_with",
      absl::StrCat("the model has a sliding window of ", *model.sliding_window,
                   " tokens. Sparse attention and measurements need prompt and new tokens to fit "
                   "into it, got ",
                   most_positions(request, model), "; dense attention has no such limit"));
}

}  // namespace

std::vector<AttentionChoice> computed_attention(const Request& request, const ModelLimits& model) {
  std::vector<AttentionChoice> runs{request.attention};
  if (request.compared_with) runs.push_back(*request.compared_with);
  if (!outgrows_window(request, model)) return runs;
  for (AttentionChoice& run : runs) {
    if (is_dense(run)) run = dense_within(*model.sliding_window);
  }
  return runs;
}

absl::Status check_tokens(const std::string& field, std::span<const Token> tokens, int32_t vocab) {
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (tokens[i] >= 0 && tokens[i] < vocab) continue;
    return check_token(absl::StrCat(field, "[", i, "]"), tokens[i], vocab);
  }
  return absl::OkStatus();
}

absl::Status validate(const Request& request, const ModelLimits& model) {
  if (request.tokens.empty()) {
    return invalid_field("tokens", "the prompt has no token, not even a BOS");
  }
  return first_error({check_attention("attention", request.attention, model.layers),
                      check_comparison(request, model.layers), check_task(request, model),
                      check_tokens("tokens", request.tokens, model.vocab),
                      check_window(request, model)});
}

}  // namespace kascade
