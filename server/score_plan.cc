#include "server/score_plan.h"

#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/errors.h"
#include "server/limits.h"
#include "server/prompt.h"
#include "server/translate.h"

namespace kascade::server {
namespace {

constexpr int32_t kDefaultChunk = 512;  // llama-perplexity's

absl::Status read_options(const v1::ScoreRequest& in, ScorePlan& plan) {
  if (in.inputs().empty() || in.inputs_size() > kMaxTexts) {
    return invalid_field("inputs",
                         absl::StrCat("must be 1 to ", kMaxTexts, ", got ", in.inputs_size()));
  }
  switch (in.phase()) {
    case v1::SELECTION_PHASE_UNSPECIFIED:
    case v1::SELECTION_PHASE_ROW:
      plan.phase = SelectionGranularity::kPerQuery;
      break;
    case v1::SELECTION_PHASE_TILE:
      plan.phase = SelectionGranularity::kPerTile;
      break;
    default:
      return invalid_field("phase", absl::StrCat("unknown value ", int{in.phase()}));
  }
  const auto& response = in.response();
  absl::Status status =
      check_range("response.top_logprobs", int64_t{response.top_logprobs()}, 0, kMaxTopLogprobs);
  plan.top_logprobs = response.top_logprobs();
  plan.send_ranks = response.ranks();
  plan.send_tokens = response.tokens() || response.ranks() || plan.top_logprobs > 0;
  return status;
}

// The largest window that the context and the KV pool allow.
int32_t largest_window(const Engine& engine, Mode mode) {
  const EngineStats stats = engine.stats();
  const int64_t blocks = stats.total_blocks / (mode == Mode::kCompare ? 2 : 1);
  const int64_t room = std::max<int64_t>(1, blocks * stats.block_size);
  return static_cast<int32_t>(std::min<int64_t>(engine.model().context, room)) + 1;
}

int32_t default_window(v1::ScoreProtocol protocol, int32_t least, int32_t largest) {
  int32_t window = largest;
  if (protocol == v1::SCORE_PROTOCOL_CHUNK) window = std::min(kDefaultChunk, largest);
  // All tokens of a window go through the model there, the last one, too.
  if (protocol == v1::SCORE_PROTOCOL_STRIDED) window = largest - 1;
  return std::max(least, window);
}

absl::Status read_cut(const v1::ScoreRequest& in, const Engine& engine, Mode mode, ScoreCut& cut) {
  if (!v1::ScoreProtocol_IsValid(in.protocol())) {
    return invalid_field("protocol", absl::StrCat("unknown value ", int{in.protocol()}));
  }
  cut.protocol = in.protocol();
  const int32_t least = cut.protocol == v1::SCORE_PROTOCOL_CHUNK ? 3 : 2;
  if (in.has_window_tokens()) {
    absl::Status status = check_range("window_tokens", int64_t{in.window_tokens()}, least,
                                      int64_t{engine.model().context} + 1);
    if (!status.ok()) return status;
    cut.window_tokens = in.window_tokens();
  } else {
    const int32_t largest = largest_window(engine, mode);
    cut.window_tokens = default_window(cut.protocol, least, largest);
  }
  if (cut.protocol != v1::SCORE_PROTOCOL_STRIDED) {
    if (!in.has_stride_tokens()) return absl::OkStatus();
    return invalid_field("stride_tokens",
                         absl::StrCat("goes with protocol STRIDED only, got ", in.stride_tokens()));
  }
  cut.stride_tokens = in.has_stride_tokens() ? in.stride_tokens() : cut.window_tokens / 2;
  return check_range("stride_tokens", int64_t{cut.stride_tokens}, 1,
                     int64_t{cut.window_tokens} - 1);
}

}  // namespace

int64_t ScorePlan::tokens_to_score() const {
  int64_t sum = 0;
  for (const ScoreSequence& input : inputs) sum += input.tokens_to_score;
  return sum;
}

int32_t ScorePlan::windows() const {
  size_t sum = 0;
  for (const ScoreSequence& input : inputs) sum += input.windows.size();
  return static_cast<int32_t>(sum);
}

absl::StatusOr<ScorePlan> plan_score(const v1::ScoreRequest& in, const Engine& engine,
                                     absl::Time deadline) {
  ScorePlan plan;
  plan.deadline = deadline;
  if (absl::Status status = read_options(in, plan); !status.ok()) return status;
  plan.schedule = engine.active_schedule();
  auto attention = translate_attention(in.attention(), engine.model(), plan.schedule.get(),
                                       /*may_compare=*/true);
  if (!attention.ok()) return attention.status();
  plan.attention = *attention;
  if (!plan.attention.uses_schedule()) plan.schedule = nullptr;
  const Mode mode = attention->mode;
  plan.tile_comparison = in.tile_comparison();
  if (plan.tile_comparison &&
      (mode != Mode::kCompare || plan.phase != SelectionGranularity::kPerQuery)) {
    return invalid_field("tile_comparison", "goes with mode COMPARE and phase ROW only");
  }
  if (absl::Status status = read_cut(in, engine, mode, plan.cut); !status.ok()) return status;
  PromptOptions options{.parse_special_tokens = in.parse_special_tokens()};
  if (in.has_add_bos()) options.add_bos = in.add_bos();
  const auto encoder = PromptEncoder::create(engine, options);
  if (!encoder.ok()) return encoder.status();
  for (int i = 0; i < in.inputs_size(); ++i) {
    auto sequence = read_score_input(in.inputs(i), absl::StrCat("inputs[", i, "]"), plan.cut,
                                     in.parse_special_tokens(), *encoder, engine.tokenizer());
    if (!sequence.ok()) return sequence.status();
    plan.inputs.push_back(*std::move(sequence));
  }
  return plan;
}

}  // namespace kascade::server
