#include "server/score_input.h"

#include <algorithm>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/errors.h"
#include "server/scored_text.h"
#include "server/translate.h"

namespace kascade::server {
namespace {

absl::Status read_text(const v1::ScoreInput& in, const std::string& field,
                       const PromptEncoder& encoder, ScoreSequence& out) {
  if (in.has_context_tokens()) {
    return invalid_field(field + ".context_tokens", "goes with token_ids; use context with text");
  }
  auto tokens = encoder.text(absl::StrCat(in.context(), in.text()), field + ".text");
  if (!tokens.ok()) return tokens.status();
  out.tokens = *std::move(tokens);
  out.first_scored = std::max<int64_t>(1, static_cast<int64_t>(encoder.bos_count(out.tokens)));
  out.has_context = !in.context().empty();
  const std::string_view stripped = without_trailing_space(in.context());
  if (stripped.empty()) return absl::OkStatus();
  const auto context = encoder.text(stripped, field + ".context");
  if (!context.ok()) return context.status();
  out.first_scored = std::max(out.first_scored, static_cast<int64_t>(context->size()));
  return absl::OkStatus();
}

absl::Status read_ids(const v1::ScoreInput& in, const std::string& field,
                      const PromptEncoder& encoder, ScoreSequence& out) {
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
  out.first_scored = std::max({int64_t{1}, static_cast<int64_t>(encoder.bos_count(out.tokens)),
                               added + in.context_tokens()});
  out.has_context = in.context_tokens() > 0;
  return absl::OkStatus();
}

// Each chunk begins as the sequence does, as far as the BOS goes.
absl::Status cut_into_chunks(const ScoreCut& cut, size_t bos_count, const std::string& field,
                             ScoreSequence& out) {
  const auto size = static_cast<int64_t>(out.tokens.size());
  const int64_t least = 2 * int64_t{cut.window_tokens};
  if (out.has_context) return invalid_field(field, "a context does not go with protocol CHUNK");
  if (size < least) {
    return invalid_field(field, absl::StrCat(size, " tokens; protocol CHUNK needs at least ", least,
                                             ", two windows"));
  }
  out.windows = chunk_windows(size, cut.window_tokens);
  if (static_cast<int64_t>(bos_count) > out.windows.front().first_scored) {
    return invalid_field("window_tokens", absl::StrCat("a BOS of ", bos_count,
                                                       " tokens reaches into the scored half of ",
                                                       cut.window_tokens));
  }
  out.window_start.assign(out.tokens.begin(),
                          out.tokens.begin() + static_cast<std::ptrdiff_t>(bos_count));
  return absl::OkStatus();
}

absl::Status cut_into_windows(const ScoreCut& cut, const std::string& field, ScoreSequence& out) {
  const auto size = static_cast<int64_t>(out.tokens.size());
  const int32_t window = cut.window_tokens;
  const bool fits = size <= window;
  if (!fits && (out.has_context || cut.protocol == v1::SCORE_PROTOCOL_WHOLE)) {
    return invalid_field(field,
                         absl::StrCat(size, " tokens; at most ", window,
                                      out.has_context ? " fit the window with a context"
                                                      : " fit the window in one piece"),
                         reason::kTooLong);
  }
  if (fits) {
    out.windows = {{0, static_cast<int32_t>(size), static_cast<int32_t>(out.first_scored)}};
  } else if (cut.protocol == v1::SCORE_PROTOCOL_STRIDED) {
    out.windows = strided_windows(size, window, cut.stride_tokens, out.first_scored);
  } else {
    out.windows = rolling_windows(size, window, out.first_scored);
  }
  return absl::OkStatus();
}

absl::Status cut_sequence(const ScoreCut& cut, size_t bos_count, const std::string& field,
                          ScoreSequence& out) {
  const auto size = static_cast<int64_t>(out.tokens.size());
  if (size <= out.first_scored) {
    return invalid_field(field, absl::StrCat("nothing to score: ", size, " tokens, of which ",
                                             std::min(size, out.first_scored),
                                             " are BOS or context, or have no predecessor"));
  }
  const absl::Status status = cut.protocol == v1::SCORE_PROTOCOL_CHUNK
                                  ? cut_into_chunks(cut, bos_count, field, out)
                                  : cut_into_windows(cut, field, out);
  if (!status.ok()) return status;
  out.protocol = cut.protocol;
  if (cut.protocol == v1::SCORE_PROTOCOL_UNSPECIFIED) {
    out.protocol =
        size <= cut.window_tokens ? v1::SCORE_PROTOCOL_WHOLE : v1::SCORE_PROTOCOL_ROLLING;
  }
  for (const ScoreWindow& window : out.windows) {
    out.tokens_to_score += window.count - window.first_scored;
  }
  return absl::OkStatus();
}

// Words and bytes of `text` if all of it is scored, else of the scored tokens.
void measure(const std::string* text, const Tokenizer& tokenizer, ScoreSequence& out) {
  TextCounter counter;
  if (text != nullptr) {
    counter.add(*text);
  } else {
    for (const ScoreWindow& window : out.windows) {
      for (int64_t i = window.begin + window.first_scored; i < window.begin + window.count; ++i) {
        counter.add(spelling(tokenizer, out.tokens[static_cast<size_t>(i)]));
      }
    }
  }
  out.words_scored = counter.words();
  out.bytes_scored = counter.bytes();
}

}  // namespace

absl::StatusOr<ScoreSequence> read_score_input(const v1::ScoreInput& in, const std::string& field,
                                               const ScoreCut& cut, bool parse_special_tokens,
                                               const PromptEncoder& encoder,
                                               const Tokenizer& tokenizer) {
  ScoreSequence out;
  absl::Status status;
  switch (in.input_case()) {
    case v1::ScoreInput::kText:
      status = read_text(in, field, encoder, out);
      break;
    case v1::ScoreInput::kTokenIds:
      status = read_ids(in, field, encoder, out);
      break;
    case v1::ScoreInput::INPUT_NOT_SET:
      return invalid_field(field, "either text or token_ids must be set");
  }
  const size_t bos_count = encoder.bos_count(out.tokens);
  out.begins_with_bos = bos_count > 0;
  if (status.ok()) status = cut_sequence(cut, bos_count, field, out);
  if (!status.ok()) return status;
  // A BOS that the text spells is a token of its own and not scored.
  const bool own_bos = parse_special_tokens && bos_count > 0 &&
                       in.text().starts_with(tokenizer.token_text(out.tokens.front()));
  const bool all = in.has_text() && in.context().empty() && bos_count > 0 && !own_bos &&
                   cut.protocol != v1::SCORE_PROTOCOL_CHUNK;
  measure(all ? &in.text() : nullptr, tokenizer, out);
  return out;
}

}  // namespace kascade::server
