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

absl::Status read_options(const v1::ScoreRequest& in, const ModelConfig& model, ScorePlan& plan) {
  if (in.inputs().empty() || in.inputs_size() > kMaxTexts) {
    return invalid_field("inputs",
                         absl::StrCat("must be 1 to ", kMaxTexts, ", got ", in.inputs_size()));
  }
  switch (in.phase()) {
    case v1::SELECTION_PHASE_UNSPECIFIED:
    case v1::SELECTION_PHASE_ROW:
      plan.phase = Phase::kRow;
      break;
    case v1::SELECTION_PHASE_TILE:
      plan.phase = Phase::kTile;
      break;
    default:
      return invalid_field("phase", absl::StrCat("unknown value ", int{in.phase()}));
  }
  if (!v1::ScoreProtocol_IsValid(in.protocol())) {
    return invalid_field("protocol", absl::StrCat("unknown value ", int{in.protocol()}));
  }
  if (in.has_window_tokens()) {
    absl::Status status =
        check_range("window_tokens", int64_t{in.window_tokens()}, 2, int64_t{model.context} + 1);
    if (!status.ok()) return status;
    plan.window_tokens = in.window_tokens();
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

size_t without_trailing_space(const std::string& text) {
  return text.find_last_not_of(" \t\n\r\f\v") + 1;  // npos + 1 = 0
}

absl::Status read_text(const v1::ScoreInput& in, const std::string& field, bool parse_special,
                       const PromptEncoder& encoder, const Tokenizer& tokenizer,
                       ScoreSequence& out) {
  if (in.has_context_tokens()) {
    return invalid_field(field + ".context_tokens", "goes with token_ids; use context with text");
  }
  auto tokens = encoder.text(absl::StrCat(in.context(), in.text()), field + ".text");
  if (!tokens.ok()) return tokens.status();
  out.tokens = *std::move(tokens);
  const size_t bos = encoder.bos_count(out.tokens);
  out.first_scored = std::max<int64_t>(1, static_cast<int64_t>(bos));
  const size_t context_bytes = without_trailing_space(in.context());
  if (context_bytes > 0) {
    const auto context = encoder.text(in.context().substr(0, context_bytes), field + ".context");
    if (!context.ok()) return context.status();
    out.first_scored = std::max(out.first_scored, static_cast<int64_t>(context->size()));
  }
  const bool own_bos =
      parse_special && bos > 0 && in.text().starts_with(tokenizer.token_text(out.tokens.front()));
  const bool all = in.context().empty() && bos > 0 && !own_bos;
  if (all) {
    out.bytes_scored = static_cast<int64_t>(in.text().size());
  } else if (out.first_scored < static_cast<int64_t>(out.tokens.size())) {
    out.bytes_scored = text_bytes(tokenizer, out.tokens, static_cast<size_t>(out.first_scored));
  }
  return absl::OkStatus();
}

absl::Status read_ids(const v1::ScoreInput& in, const std::string& field,
                      const PromptEncoder& encoder, const Tokenizer& tokenizer,
                      ScoreSequence& out) {
  if (in.has_context()) {
    return invalid_field(field + ".context", "goes with text; use context_tokens with token_ids");
  }
  auto tokens = encoder.ids(in.token_ids(), field + ".token_ids");
  if (!tokens.ok()) return tokens.status();
  out.tokens = *std::move(tokens);
  const int64_t given = in.token_ids().ids_size();
  absl::Status status = check_range(field + ".context_tokens", int64_t{in.context_tokens()}, 0,
                                    std::max<int64_t>(0, given - 1));
  if (!status.ok()) return status;
  const int64_t added = static_cast<int64_t>(out.tokens.size()) - given;
  out.first_scored = std::max<int64_t>(1, added + in.context_tokens());
  if (out.first_scored < static_cast<int64_t>(out.tokens.size())) {
    out.bytes_scored = text_bytes(tokenizer, out.tokens, static_cast<size_t>(out.first_scored));
  }
  return absl::OkStatus();
}

absl::Status cut(v1::ScoreProtocol protocol, bool has_context, int32_t window,
                 const std::string& field, ScoreSequence& out) {
  const auto size = static_cast<int64_t>(out.tokens.size());
  if (size <= out.first_scored) {
    return invalid_field(field, absl::StrCat("nothing to score: ", size, " tokens, of which ",
                                             std::min(size, out.first_scored),
                                             " are BOS or context, or have no predecessor"));
  }
  const bool fits = size <= window;
  if (!fits && (has_context || protocol == v1::SCORE_PROTOCOL_WHOLE)) {
    return invalid_field(field,
                         absl::StrCat(size, " tokens; at most ", window,
                                      has_context ? " fit the window with a context"
                                                  : " fit the window in one piece"),
                         reason::kTooLong);
  }
  if (fits) {
    out.windows = {{0, static_cast<int32_t>(size), static_cast<int32_t>(out.first_scored)}};
  } else {
    out.windows = rolling_windows(size, window, out.first_scored);
  }
  const bool rolling = !fits || protocol == v1::SCORE_PROTOCOL_ROLLING;
  out.protocol = rolling ? v1::SCORE_PROTOCOL_ROLLING : v1::SCORE_PROTOCOL_WHOLE;
  return absl::OkStatus();
}

absl::Status read_input(const v1::ScoreRequest& in, int index, const PromptEncoder& encoder,
                        const Tokenizer& tokenizer, ScorePlan& plan) {
  const v1::ScoreInput& input = in.inputs(index);
  const std::string field = absl::StrCat("inputs[", index, "]");
  ScoreSequence sequence;
  absl::Status status;
  switch (input.input_case()) {
    case v1::ScoreInput::kText:
      status = read_text(input, field, in.parse_special_tokens(), encoder, tokenizer, sequence);
      break;
    case v1::ScoreInput::kTokenIds:
      status = read_ids(input, field, encoder, tokenizer, sequence);
      break;
    case v1::ScoreInput::INPUT_NOT_SET:
      return invalid_field(field, "either text or token_ids must be set");
  }
  if (!status.ok()) return status;
  const bool has_context = !input.context().empty() || input.context_tokens() > 0;
  status = cut(in.protocol(), has_context, plan.window_tokens, field, sequence);
  if (status.ok()) plan.inputs.push_back(std::move(sequence));
  return status;
}

}  // namespace

int64_t ScorePlan::tokens_to_score() const {
  int64_t sum = 0;
  for (const ScoreSequence& input : inputs) sum += input.tokens_to_score();
  return sum;
}

int32_t ScorePlan::windows() const {
  size_t sum = 0;
  for (const ScoreSequence& input : inputs) sum += input.windows.size();
  return static_cast<int32_t>(sum);
}

std::vector<ScoreWindow> rolling_windows(int64_t size, int32_t window, int64_t first_scored) {
  std::vector<ScoreWindow> windows;
  // Windows of two tokens are as many as the tokens; growing would take as much again.
  windows.reserve(static_cast<size_t>((size - first_scored) / (window - 1) + 2));
  int64_t next = first_scored;  // first token that is not scored yet
  if (next < window) {
    const auto count = static_cast<int32_t>(std::min<int64_t>(size, window));
    windows.push_back({0, count, static_cast<int32_t>(next)});
    next = count;
  }
  while (next < size) {
    const int64_t end = std::min<int64_t>(size, next + window - 1);
    const int64_t begin = end - window;
    windows.push_back({begin, window, static_cast<int32_t>(next - begin)});
    next = end;
  }
  return windows;
}

absl::StatusOr<ScorePlan> plan_score(const v1::ScoreRequest& in, const Engine& engine,
                                     absl::Time deadline) {
  ScorePlan plan;
  plan.deadline = deadline;
  if (absl::Status status = read_options(in, engine.model(), plan); !status.ok()) return status;
  plan.schedule = engine.active_schedule();
  auto attention = translate_attention(in.attention(), plan.schedule.get(), /*may_compare=*/true);
  if (!attention.ok()) return attention.status();
  plan.attention = *attention;
  if (plan.attention.mode == Mode::kDense) plan.schedule = nullptr;
  if (!in.has_window_tokens()) plan.window_tokens = largest_window(engine, *plan.attention.mode);
  PromptOptions options{.parse_special_tokens = in.parse_special_tokens()};
  if (in.has_add_bos()) options.add_bos = in.add_bos();
  const auto encoder = PromptEncoder::create(engine, options);
  if (!encoder.ok()) return encoder.status();
  for (int i = 0; i < in.inputs_size(); ++i) {
    absl::Status status = read_input(in, i, *encoder, engine.tokenizer(), plan);
    if (!status.ok()) return status;
  }
  return plan;
}

}  // namespace kascade::server
