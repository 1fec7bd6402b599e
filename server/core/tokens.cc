#include "server/core/tokens.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/request.h"
#include "server/core/limits.h"

namespace kascade::core {
namespace {

// Where each token begins in `text`; empty when the tokens' bytes do not add up to the text.
std::vector<int64_t> offsets_of(const Tokenizer& tokenizer, const std::vector<Token>& tokens,
                                size_t bos, size_t end, std::string_view text) {
  std::vector<int64_t> offsets;
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

}  // namespace

absl::StatusOr<std::vector<TokenizedText>> tokenize(const Engine& engine,
                                                    std::span<const std::string_view> texts,
                                                    const PromptOptions& options, bool details) {
  if (absl::Status status = check_text_count("texts", texts.size()); !status.ok()) return status;
  const auto encoder = PromptEncoder::create(engine, options);
  if (!encoder.ok()) return encoder.status();
  std::vector<TokenizedText> out;
  for (size_t i = 0; i < texts.size(); ++i) {
    auto tokens = encoder->text(texts[i], absl::StrCat("texts[", i, "]"), /*is_complete=*/true);
    if (!tokens.ok()) return tokens.status();
    TokenizedText& result = out.emplace_back();
    result.tokens = *std::move(tokens);
    if (!details) continue;
    const Tokenizer& tokenizer = engine.tokenizer();
    for (const Token token : result.tokens) {
      result.spellings.emplace_back(tokenizer.token_text(token));
    }
    result.offsets = offsets_of(tokenizer, result.tokens, encoder->bos_count(result.tokens),
                                encoder->end_count(), texts[i]);
  }
  return out;
}

absl::StatusOr<std::string> detokenize(const Engine& engine, std::span<const Token> tokens,
                                       bool skip_special_tokens) {
  const Tokenizer& tokenizer = engine.tokenizer();
  absl::Status status = check_tokens("tokens", tokens, engine.model().vocab);
  if (!status.ok()) return status;
  return tokenizer.decode(tokens, skip_special_tokens);
}

}  // namespace kascade::core
