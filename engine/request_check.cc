#include "engine/request_check.h"

#include <cstdint>
#include <string>
#include <variant>

#include "absl/strings/str_cat.h"
#include "engine/sampling/sampler.h"

namespace kascade {
namespace {

constexpr int32_t kMaxBaselineKeys = 1 << 20;
constexpr int32_t kMaxPageSize = 128;  // a query tile is whole pages

absl::Status check_tokens(const Request& request, const ModelConfig& model) {
  if (request.tokens.empty()) {
    return absl::InvalidArgumentError("tokens: must hold at least one token, got 0");
  }
  for (size_t i = 0; i < request.tokens.size(); ++i) {
    if (request.tokens[i] >= 0 && request.tokens[i] < model.vocab) continue;
    return absl::InvalidArgumentError(absl::StrCat("tokens: id ", request.tokens[i], " at index ",
                                                   i, " is outside the vocabulary [0, ",
                                                   model.vocab, ")"));
  }
  return absl::OkStatus();
}

absl::Status check_observe(const Request& request) {
  if (std::get<Observe>(request.task).observer == nullptr) {
    return absl::InvalidArgumentError("observer: must be set");
  }
  if (request.tokens.size() < 2) {
    return absl::InvalidArgumentError("tokens: an observed text has at least two, got 1");
  }
  if (!is_dense(request.attention)) {
    return absl::InvalidArgumentError("attention: an observed text runs densely");
  }
  return absl::OkStatus();
}

absl::Status check_task(const Request& request, const ModelConfig& model) {
  const auto size = static_cast<int64_t>(request.tokens.size());
  if (const auto* generate = std::get_if<Generate>(&request.task)) {
    if (size >= model.context) {
      return absl::InvalidArgumentError(absl::StrCat(
          "prompt: at most ", model.context - 1, " tokens fit the model's context, got ", size));
    }
    return validate(*generate, model.vocab);
  }
  if (size > int64_t{model.context} + 1) {
    return absl::InvalidArgumentError(absl::StrCat("tokens: at most ", model.context + 1,
                                                   " can be scored in one window, got ", size));
  }
  const auto* score = std::get_if<Score>(&request.task);
  if (score == nullptr) return check_observe(request);
  if (score->first_scored < 1 || score->first_scored >= size) {
    return absl::InvalidArgumentError(
        absl::StrCat("first_scored: must be in [1, ", size - 1, "], got ", score->first_scored));
  }
  if (score->top_logprobs < 0 || score->top_logprobs > 20) {
    return absl::InvalidArgumentError(
        absl::StrCat("top_logprobs: must be in [0, 20], got ", score->top_logprobs));
  }
  return absl::OkStatus();
}

absl::Status check_schedule(const ScheduledAttention& attention, const std::string& field) {
  if (attention.schedule == nullptr) {
    return absl::FailedPreconditionError(
        absl::StrCat(field,
                     ": no schedule is active; run CalibrationService.Calibrate or "
                     "ActivateSchedule first"));
  }
  if (!attention.ratio.has_value()) return absl::OkStatus();
  if (!(*attention.ratio > 0 && *attention.ratio <= 1)) {
    return absl::InvalidArgumentError(
        absl::StrCat(field, ".ratio: must be in (0, 1], got ", *attention.ratio));
  }
  if (attention.schedule->selection.family != Family::kKascade) {
    return absl::InvalidArgumentError(
        absl::StrCat(field, ".ratio: the active schedule selects tiles by top_k, not by ratio"));
  }
  return absl::OkStatus();
}

absl::Status check_baseline(const BaselineAttention& baseline, const std::string& field,
                            const ModelConfig& model) {
  if (!(baseline.ratio > 0 && baseline.ratio <= 1)) {
    return absl::InvalidArgumentError(
        absl::StrCat(field, ".baseline.ratio: must be in (0, 1], got ", baseline.ratio));
  }
  const bool quest = baseline.kind == BaselineKind::kQuest;
  const struct {
    const char* name;
    int32_t value, low, high;
  } numbers[] = {{"min_keys", baseline.min_keys, 0, kMaxBaselineKeys},
                 {"sink_keys", baseline.sink_keys, 0, quest ? 0 : kMaxBaselineKeys},
                 {"page_size", baseline.page_size, 1, kMaxPageSize}};
  for (const auto& [name, value, low, high] : numbers) {
    if (value >= low && value <= high) continue;
    return absl::InvalidArgumentError(absl::StrCat(field, ".baseline.", name, ": must be in [", low,
                                                   ", ", high, "], got ", value));
  }
  for (const int32_t layer : baseline.dense_layers) {
    if (layer >= 0 && layer < model.layers) continue;
    return absl::InvalidArgumentError(absl::StrCat(field, ".baseline.dense_layers: must be in [0, ",
                                                   model.layers - 1, "], got ", layer));
  }
  return absl::OkStatus();
}

// `field` is the path of the choice in the request.
absl::Status check_attention(const AttentionChoice& choice, const std::string& field,
                             const ModelConfig& model) {
  if (const auto* scheduled = std::get_if<ScheduledAttention>(&choice)) {
    return check_schedule(*scheduled, field);
  }
  if (const auto* baseline = std::get_if<BaselineAttention>(&choice)) {
    return check_baseline(*baseline, field, model);
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status check_request(const Request& request, const ModelConfig& model) {
  if (absl::Status status = check_tokens(request, model); !status.ok()) return status;
  if (absl::Status status = check_task(request, model); !status.ok()) return status;
  if (absl::Status status = check_attention(request.attention, "attention", model); !status.ok()) {
    return status;
  }
  if (!request.compared_with) return absl::OkStatus();
  if (!std::holds_alternative<Score>(request.task)) {
    return absl::InvalidArgumentError("compared_with: goes with a text to score only");
  }
  return check_attention(*request.compared_with, "compared_with", model);
}

}  // namespace kascade
