#include "engine/request_check.h"

#include <cstdint>
#include <optional>
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

absl::Status check_task(const Request& request, const ModelConfig& model) {
  const auto size = static_cast<int64_t>(request.tokens.size());
  if (const auto* generate = std::get_if<Generate>(&request.task)) {
    if (size >= model.context) {
      return absl::InvalidArgumentError(absl::StrCat(
          "prompt: at most ", model.context - 1, " tokens fit the model's context, got ", size));
    }
    return validate(*generate, model.vocab);
  }
  const Score& score = std::get<Score>(request.task);
  if (size > int64_t{model.context} + 1) {
    return absl::InvalidArgumentError(absl::StrCat("tokens: at most ", model.context + 1,
                                                   " can be scored in one window, got ", size));
  }
  if (score.first_scored < 1 || score.first_scored >= size) {
    return absl::InvalidArgumentError(
        absl::StrCat("first_scored: must be in [1, ", size - 1, "], got ", score.first_scored));
  }
  if (score.top_logprobs < 0 || score.top_logprobs > 20) {
    return absl::InvalidArgumentError(
        absl::StrCat("top_logprobs: must be in [0, 20], got ", score.top_logprobs));
  }
  return absl::OkStatus();
}

absl::Status check_ratio(const Attention& attention, Mode mode, const Schedule* schedule) {
  if (!attention.ratio.has_value()) return absl::OkStatus();
  if (!(*attention.ratio > 0 && *attention.ratio <= 1)) {
    return absl::InvalidArgumentError(
        absl::StrCat("ratio: must be in (0, 1], got ", *attention.ratio));
  }
  if (mode == Mode::kDense) {
    return absl::InvalidArgumentError("ratio: has no meaning with mode dense");
  }
  if (attention.baseline.has_value()) {
    return absl::InvalidArgumentError("ratio: is the schedule's; a baseline has its own");
  }
  if (schedule->selection.family != Family::kKascade) {
    return absl::InvalidArgumentError(
        "ratio: the active schedule selects tiles by top_k, not by ratio");
  }
  return absl::OkStatus();
}

absl::Status check_baseline(const BaselineAttention& baseline, Mode mode,
                            const ModelConfig& model) {
  if (mode == Mode::kDense) {
    return absl::InvalidArgumentError("baseline: has no meaning with mode dense");
  }
  if (!(baseline.ratio > 0 && baseline.ratio <= 1)) {
    return absl::InvalidArgumentError(
        absl::StrCat("baseline.ratio: must be in (0, 1], got ", baseline.ratio));
  }
  const bool quest = baseline.kind == BaselineKind::kQuest;
  const struct {
    const char* field;
    int32_t value, low, high;
  } numbers[] = {{"min_keys", baseline.min_keys, 0, kMaxBaselineKeys},
                 {"sink_keys", baseline.sink_keys, 0, quest ? 0 : kMaxBaselineKeys},
                 {"page_size", baseline.page_size, 1, kMaxPageSize}};
  for (const auto& [field, value, low, high] : numbers) {
    if (value >= low && value <= high) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("baseline.", field, ": must be in [", low, ", ", high, "], got ", value));
  }
  for (const int32_t layer : baseline.dense_layers) {
    if (layer >= 0 && layer < model.layers) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("baseline.dense_layers: must be in [0, ", model.layers - 1, "], got ", layer));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status check_request(const Request& request, Mode mode, const Schedule* schedule,
                           const ModelConfig& model) {
  if (absl::Status status = check_tokens(request, model); !status.ok()) return status;
  if (absl::Status status = check_task(request, model); !status.ok()) return status;
  if (mode == Mode::kCompare && std::holds_alternative<Generate>(request.task)) {
    return absl::InvalidArgumentError("mode: compare is for scoring; generate dense or sparse");
  }
  const std::optional<BaselineAttention>& baseline = request.attention.baseline;
  if (baseline.has_value()) {
    if (absl::Status status = check_baseline(*baseline, mode, model); !status.ok()) return status;
  } else if (mode != Mode::kDense && schedule == nullptr) {
    return absl::FailedPreconditionError(
        "mode: no schedule is active; run CalibrationService.Calibrate or ActivateSchedule first");
  }
  return check_ratio(request.attention, mode, schedule);
}

}  // namespace kascade
