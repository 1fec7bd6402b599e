#include "server/core/score_input.h"

#include <algorithm>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/refusal.h"
#include "engine/request.h"
#include "server/core/scored_text.h"

namespace kascade::core {
namespace {

// Leaves `limit` tokens from `begin` on, where the BOS and the context end.
void cut_short(std::optional<int32_t> limit, int64_t begin, ScoreSequence& out) {
  if (!limit || static_cast<int64_t>(out.tokens.size()) <= begin + *limit) return;
  out.tokens.resize(static_cast<size_t>(begin + *limit));
  out.is_cut_short = true;
}

int64_t bytes_of(const std::vector<Token>& tokens) {
  return static_cast<int64_t>(tokens.capacity() * sizeof(Token));
}

// Encodes the context with the text behind it.
absl::StatusOr<std::vector<Token>> encode_both(const TextToScore& in, const std::string& field,
                                               const PromptEncoder& encoder,
                                               const EncodingBounds& bounds, RequestGuard& guard) {
  if (in.context.empty()) return encoder.text(in.text, field, /*is_complete=*/true, bounds);
  const auto bytes = static_cast<int64_t>(in.context.size() + in.text.size());
  if (absl::Status status = guard.hold_more(2 * bytes); !status.ok()) return status;
  auto tokens = encoder.text(std::string(in.context).append(in.text), field,
                             /*is_complete=*/true, bounds);
  if (absl::Status status = guard.hold_more(-2 * bytes); !status.ok()) return status;
  return tokens;
}

absl::Status encode_text(const TextToScore& in, const std::string& field, const ScoreCut& cut,
                         const PromptEncoder& encoder, RequestGuard& guard, ScoreSequence& out) {
  EncodingBounds bounds{.watch = &guard};
  const auto limit = cut.max_tokens_per_text;
  // A longer text would be refused below. Without a limit, only what is scored whole must fit.
  const bool in_one_piece = cut.protocol == ScoreProtocol::kWhole ||
                            (!in.context.empty() && cut.protocol != ScoreProtocol::kChunk);
  if (!limit && in_one_piece) {
    bounds.max_tokens = static_cast<size_t>(cut.window_tokens);
  }
  auto tokens = encode_both(in, field + ".text", encoder, bounds, guard);
  if (absl::IsOutOfRange(tokens.status())) {
    return invalid_field(field,
                         absl::StrCat("more than ", cut.window_tokens,
                                      " tokens; at most so many fit the window in one piece"),
                         reason::kTooLong);
  }
  if (!tokens.ok()) return tokens.status();
  if (absl::Status status = guard.hold_more(bytes_of(*tokens)); !status.ok()) return status;
  out.tokens = *std::move(tokens);
  auto begin = static_cast<int64_t>(encoder.bos_count(out.tokens));
  out.has_context = !in.context.empty();
  const std::string_view stripped = without_trailing_space(in.context);
  if (!stripped.empty()) {
    const auto context =
        encoder.text(stripped, field + ".context", /*is_complete=*/false, {.watch = &guard});
    if (!context.ok()) return context.status();
    begin = std::max(begin, static_cast<int64_t>(context->size()));
  }
  out.first_scored = std::max<int64_t>(1, begin);
  cut_short(limit, begin, out);
  return absl::OkStatus();
}

absl::Status join_parts(const EncodedText& in, const ScoreCut& cut, const PromptEncoder& encoder,
                        RequestGuard& guard, ScoreSequence& out) {
  size_t count = 16;  // for what complete() adds
  for (const std::vector<Token>& part : in.parts) count += part.size();
  absl::Status status = guard.hold_more(static_cast<int64_t>(count * sizeof(Token)));
  if (!status.ok()) return status;
  out.tokens.reserve(count);
  for (const std::vector<Token>& part : in.parts) {
    out.tokens.insert(out.tokens.end(), part.begin(), part.end());
  }
  encoder.complete(out.tokens);
  const auto begin = static_cast<int64_t>(encoder.bos_count(out.tokens));
  out.first_scored = std::max<int64_t>(1, begin);
  cut_short(cut.max_tokens_per_text, begin, out);
  return absl::OkStatus();
}

absl::Status encode_tokens(const TokensToScore& in, const std::string& field,
                           std::optional<int32_t> limit, const PromptEncoder& encoder,
                           RequestGuard& guard, ScoreSequence& out) {
  // Putting a BOS in front may double the list.
  const auto bytes = static_cast<int64_t>(3 * in.tokens.size_bytes());
  if (absl::Status status = guard.hold_more(bytes); !status.ok()) return status;
  auto tokens = encoder.ids(in.tokens, field + ".tokens");
  if (!tokens.ok()) return tokens.status();
  out.tokens = *std::move(tokens);
  const auto given = static_cast<int64_t>(in.tokens.size());
  absl::Status status =
      check_range(field + ".context_tokens", in.context_tokens, 0, std::max<int64_t>(0, given - 1));
  if (!status.ok()) return status;
  const int64_t added = static_cast<int64_t>(out.tokens.size()) - given;
  const int64_t begin =
      std::max(static_cast<int64_t>(encoder.bos_count(out.tokens)), added + in.context_tokens);
  out.first_scored = std::max<int64_t>(1, begin);
  out.has_context = in.context_tokens > 0;
  cut_short(limit, begin, out);
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
  if (!fits && (out.has_context || cut.protocol == ScoreProtocol::kWhole)) {
    return invalid_field(field,
                         absl::StrCat(size, " tokens; at most ", window,
                                      out.has_context ? " fit the window with a context"
                                                      : " fit the window in one piece"),
                         reason::kTooLong);
  }
  if (fits) {
    out.windows = {{0, static_cast<int32_t>(size), static_cast<int32_t>(out.first_scored)}};
  } else if (cut.protocol == ScoreProtocol::kStrided) {
    out.windows = strided_windows(size, window, cut.stride_tokens, out.first_scored);
  } else {
    out.windows = rolling_windows(size, window, out.first_scored);
  }
  return absl::OkStatus();
}

// There are fewer than that many windows.
int64_t most_windows(const ScoreCut& cut, int64_t tokens) {
  int32_t step = cut.window_tokens - 1;
  if (cut.protocol == ScoreProtocol::kStrided) step = cut.stride_tokens;
  return tokens / step + 3;
}

absl::Status cut_sequence(const ScoreCut& cut, size_t bos_count, const std::string& field,
                          ScoreSequence& out) {
  const auto size = static_cast<int64_t>(out.tokens.size());
  if (size <= out.first_scored) {
    return invalid_field(field, absl::StrCat("nothing to score: ", size, " tokens, of which ",
                                             std::min(size, out.first_scored),
                                             " are BOS or context, or have no predecessor"));
  }
  const absl::Status status = cut.protocol == ScoreProtocol::kChunk
                                  ? cut_into_chunks(cut, bos_count, field, out)
                                  : cut_into_windows(cut, field, out);
  if (!status.ok()) return status;
  out.protocol = cut.protocol.value_or(size <= cut.window_tokens ? ScoreProtocol::kWhole
                                                                 : ScoreProtocol::kRolling);
  for (const ScoreWindow& window : out.windows) {
    out.tokens_to_score += window.count - window.first_scored;
  }
  return absl::OkStatus();
}

// Words and bytes of the scored tokens.
void measure(const Tokenizer& tokenizer, ScoreSequence& out) {
  TextCounter counter;
  for (const ScoreWindow& window : out.windows) {
    for (int64_t i = window.begin + window.first_scored; i < window.begin + window.count; ++i) {
      counter.add(spelling(tokenizer, out.tokens[static_cast<size_t>(i)]));
    }
  }
  out.words_scored = counter.words();
  out.bytes_scored = counter.bytes();
}

// Those of the text if all of it is scored.
void measure(const ScoreInput& in, const ScoreCut& cut, bool parse_special_tokens,
             const Tokenizer& tokenizer, ScoreSequence& out) {
  const auto* text = std::get_if<TextToScore>(&in);
  const auto* encoded = std::get_if<EncodedText>(&in);
  const bool is_text = encoded != nullptr || (text != nullptr && text->context.empty());
  if (!is_text || !out.begins_with_bos || out.is_cut_short ||
      cut.protocol == ScoreProtocol::kChunk) {
    return measure(tokenizer, out);
  }
  const std::string_view beginning = encoded != nullptr ? encoded->beginning : text->text;
  // A BOS that the text spells is a token of its own and not scored.
  const std::string_view bos = tokenizer.token_text(out.tokens.front());
  if (parse_special_tokens && !bos.empty() && beginning.starts_with(bos)) {
    return measure(tokenizer, out);
  }
  TextCounter counter;
  if (text != nullptr) counter.add(text->text);
  out.words_scored = encoded != nullptr ? encoded->words : counter.words();
  out.bytes_scored = encoded != nullptr ? encoded->bytes : counter.bytes();
}

absl::Status encode(const ScoreInput& in, const std::string& field, const ScoreCut& cut,
                    const PromptEncoder& encoder, RequestGuard& guard, ScoreSequence& out) {
  if (const auto* text = std::get_if<TextToScore>(&in)) {
    return encode_text(*text, field, cut, encoder, guard, out);
  }
  if (const auto* parts = std::get_if<EncodedText>(&in)) {
    return join_parts(*parts, cut, encoder, guard, out);
  }
  return encode_tokens(std::get<TokensToScore>(in), field, cut.max_tokens_per_text, encoder, guard,
                       out);
}

}  // namespace

absl::StatusOr<ScoreSequence> make_sequence(const ScoreInput& in, const std::string& field,
                                            const ScoreCut& cut, bool parse_special_tokens,
                                            const PromptEncoder& encoder,
                                            const Tokenizer& tokenizer, RequestGuard& guard) {
  ScoreSequence out;
  absl::Status status = encode(in, field, cut, encoder, guard, out);
  if (!status.ok()) return status;
  const int64_t windows = most_windows(cut, static_cast<int64_t>(out.tokens.size()));
  status = guard.hold_more(windows * int64_t{sizeof(ScoreWindow)} + int64_t{sizeof(out)});
  if (!status.ok()) return status;
  const size_t bos_count = encoder.bos_count(out.tokens);
  out.begins_with_bos = bos_count > 0;
  if (status = cut_sequence(cut, bos_count, field, out); !status.ok()) return status;
  measure(in, cut, parse_special_tokens, tokenizer, out);
  return out;
}

}  // namespace kascade::core
