#include "server/core/tokens.h"

#include <bit>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/refusal.h"
#include "engine/request.h"
#include "server/core/limits.h"

namespace kascade::core {
namespace {

// Where each token begins in `text`; empty when the tokens' bytes do not add up to the text.
std::vector<int64_t> offsets_of(const Tokenizer& tokenizer, const std::vector<Token>& tokens,
                                size_t bos, size_t end, std::string_view text) {
  std::vector<int64_t> offsets;
  offsets.reserve(tokens.size());
  size_t at = 0;
  for (size_t i = 0; i < tokens.size(); ++i) {
    offsets.push_back(static_cast<int64_t>(at));
    if (i < bos || i + end >= tokens.size()) continue;
    std::string_view bytes = tokenizer.is_special(tokens[i]) ? tokenizer.token_text(tokens[i])
                                                             : tokenizer.token_bytes(tokens[i]);
    if (i == bos && tokenizer.strips_leading_space() && bytes.starts_with(' ')) {
      bytes.remove_prefix(1);
    }
    if (text.compare(at, bytes.size(), bytes) != 0) return {};
    at += bytes.size();
  }
  return at == text.size() ? offsets : std::vector<int64_t>{};
}

// Bytes of a number in a message.
int64_t varint_bytes(uint64_t value) { return (std::bit_width(value | 1) + 6) / 7; }

absl::Status too_long(const std::string& field, int64_t max_reply_bytes) {
  return invalid_field(field,
                       absl::StrCat("the reply would have more than ", max_reply_bytes,
                                    " bytes (Limits.max_message_bytes); send less at once"),
                       reason::kTooLong);
}

// What one text adds to the reply: its size as a message [bytes], and the memory for it in the
// result, in the message and in the serialized reply together [bytes].
struct ReplySize {
  int64_t message = 0;
  int64_t memory = 0;
};

// A spelling in a message is an object with a pointer to it, in a block of the allocator; from 16
// bytes on its characters are in a block of their own.
constexpr int64_t kSpellingMemory = 64;
constexpr size_t kInlineCharacters = 15;
constexpr int64_t kBlockMemory = 24;
constexpr int64_t kTextMemory = 512;

ReplySize size_of(const Tokenizer& tokenizer, const std::vector<Token>& tokens, bool details,
                  size_t text_bytes) {
  ReplySize out{.message = 32, .memory = kTextMemory};  // a text without tokens, generously
  for (const Token token : tokens) {
    out.message += varint_bytes(static_cast<uint64_t>(token));
    out.memory += 3 * int64_t{sizeof(Token)};  // its vector may be twice as large as needed
    if (!details) continue;
    const std::string_view spelling = tokenizer.token_text(token);
    const auto bytes = static_cast<int64_t>(spelling.size());
    out.message += 1 + varint_bytes(spelling.size()) + bytes;
    out.message += varint_bytes(text_bytes);  // an offset is no larger
    out.memory += int64_t{sizeof(std::string_view)} + 2 * int64_t{sizeof(int64_t)} +
                  kSpellingMemory +
                  (spelling.size() > kInlineCharacters ? bytes + kBlockMemory : 0);
  }
  out.memory += 2 * out.message;
  return out;
}

void add_details(const Tokenizer& tokenizer, const PromptEncoder& encoder, std::string_view text,
                 TokenizedText& out) {
  out.spellings.reserve(out.tokens.size());
  for (const Token token : out.tokens) out.spellings.push_back(tokenizer.token_text(token));
  out.offsets =
      offsets_of(tokenizer, out.tokens, encoder.bos_count(out.tokens), encoder.end_count(), text);
}

}  // namespace

absl::StatusOr<std::vector<TokenizedText>> tokenize(const Engine& engine,
                                                    const TokenizationRequest& request,
                                                    RequestGuard& guard) {
  if (absl::Status status = check_text_count("texts", request.texts.size()); !status.ok()) {
    return status;
  }
  const auto encoder = PromptEncoder::create(engine, request.options);
  if (!encoder.ok()) return encoder.status();
  // No token takes less in the reply: an id; with details also an empty spelling and an offset.
  const int64_t least_bytes = request.details ? 4 : 1;
  int64_t room = request.max_reply_bytes;
  std::vector<TokenizedText> out;
  for (size_t i = 0; i < request.texts.size(); ++i) {
    const std::string field = absl::StrCat("texts[", i, "]");
    auto tokens =
        encoder->text(request.texts[i], field, /*is_complete=*/true,
                      {.max_tokens = static_cast<size_t>(room / least_bytes), .watch = &guard});
    if (absl::IsOutOfRange(tokens.status())) return too_long(field, request.max_reply_bytes);
    if (!tokens.ok()) return tokens.status();
    const ReplySize size =
        size_of(engine.tokenizer(), *tokens, request.details, request.texts[i].size());
    room -= size.message;
    if (room < 0) return too_long(field, request.max_reply_bytes);
    if (absl::Status status = guard.hold_more(size.memory); !status.ok()) return status;
    TokenizedText& result = out.emplace_back(TokenizedText{.tokens = *std::move(tokens)});
    if (request.details) add_details(engine.tokenizer(), *encoder, request.texts[i], result);
  }
  return out;
}

absl::StatusOr<std::string> detokenize(const Engine& engine, std::span<const Token> tokens,
                                       bool skip_special_tokens, int64_t max_reply_bytes,
                                       RequestGuard& guard) {
  const Tokenizer& tokenizer = engine.tokenizer();
  absl::Status status = check_tokens("tokens", tokens, engine.model().vocab);
  if (!status.ok()) return status;
  int64_t bytes = 0;
  for (const Token token : tokens) {
    const bool shown = !skip_special_tokens && tokenizer.is_special(token);
    bytes += static_cast<int64_t>(
        (shown ? tokenizer.token_text(token) : tokenizer.token_bytes(token)).size());
  }
  // A byte that is not UTF-8 becomes a character of three.
  if (bytes > max_reply_bytes) return too_long("tokens", max_reply_bytes);
  if (status = guard.hold_more(kTextMemory + 12 * bytes); !status.ok()) return status;
  auto text = tokenizer.decode(tokens, skip_special_tokens);
  if (text.ok() && static_cast<int64_t>(text->size()) > max_reply_bytes) {
    return too_long("tokens", max_reply_bytes);
  }
  return text;
}

}  // namespace kascade::core
