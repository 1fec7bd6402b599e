#include "server/core/prompt.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/refusal.h"
#include "engine/request.h"

namespace kascade::core {
namespace {

bool starts_with(const std::vector<Token>& tokens, const std::vector<Token>& prefix) {
  return tokens.size() >= prefix.size() &&
         std::ranges::equal(prefix, std::span(tokens).first(prefix.size()));
}

void put_bos(const std::vector<Token>& bos, std::vector<Token>& tokens) {
  if (!starts_with(tokens, bos)) tokens.insert(tokens.begin(), bos.begin(), bos.end());
}

absl::Status no_chat_format(const absl::Status& status) {
  return refuse(
      absl::StatusCode::kFailedPrecondition, absl::StrCat("chat.format: ", status.message()),
      {.reason = reason::kNoChatFormat,
       .field = "chat.format",
       .subject = "chat.format",
       .remedy = "name a format that the model was trained on, or send text or token ids"});
}

// The contents exist in the message of the request, in the conversation, and up to twice in the
// text that is encoded.
int64_t copies_of(const Conversation& chat) {
  int64_t bytes = 0;
  for (const ChatMessage& message : chat.messages) {
    bytes += 4 * static_cast<int64_t>(message.content.capacity());
  }
  return bytes;
}

absl::StatusOr<EncodedPrompt> encode_chat(const Conversation& chat, const PromptOptions& options,
                                          const Engine& engine, RequestGuard& guard,
                                          const EncodingBounds& bounds) {
  for (const auto& [set, field] :
       {std::pair{options.add_bos.has_value(), "add_bos"},
        std::pair{options.parse_special_tokens.has_value(), "parse_special_tokens"}}) {
    if (set) return invalid_field(field, "has no meaning with chat");
  }
  const absl::StatusOr<ChatFormat> format =
      chat.format ? absl::StatusOr<ChatFormat>(*chat.format) : engine.chat_format();
  if (!format.ok()) return no_chat_format(format.status());
  const int64_t copies = copies_of(chat);
  if (absl::Status status = guard.hold_more(copies); !status.ok()) return status;
  auto prompt = kascade::encode_chat(engine.tokenizer(), *format, chat.messages, bounds);
  if (absl::Status status = guard.hold_more(-copies); !status.ok()) return status;
  if (refusal_of(prompt.status())) return prompt.status();  // the guard's
  if (absl::IsFailedPrecondition(prompt.status())) return no_chat_format(prompt.status());
  if (!prompt.ok()) return below_field("chat", prompt.status());
  for (const auto& tokens : {prompt->tokens, prompt->end_tokens}) {
    if (absl::Status status = check_known(engine, tokens, "chat"); !status.ok()) return status;
  }
  return EncodedPrompt{.tokens = std::move(prompt->tokens),
                       .end_tokens = std::move(prompt->end_tokens)};
}

absl::StatusOr<EncodedPrompt> encode_within(const Prompt& prompt, const PromptOptions& options,
                                            const Engine& engine, RequestGuard& guard,
                                            const EncodingBounds& bounds) {
  if (const auto* chat = std::get_if<Conversation>(&prompt)) {
    return encode_chat(*chat, options, engine, guard, bounds);
  }
  const auto encoder = PromptEncoder::create(engine, options);
  if (!encoder.ok()) return encoder.status();
  const auto* text = std::get_if<TextPrompt>(&prompt);
  auto tokens = text != nullptr ? encoder->text(text->text, "text", /*is_complete=*/false, bounds)
                                : encoder->ids(std::get<TokenPrompt>(prompt).tokens, "tokens");
  if (!tokens.ok()) return tokens.status();
  const bool continues_text = tokens->size() > encoder->bos_count(*tokens);
  return EncodedPrompt{.tokens = *std::move(tokens), .continues_text = continues_text};
}

}  // namespace

absl::Status check_known(const Engine& engine, std::span<const Token> tokens,
                         const std::string& field) {
  const int32_t vocab = engine.model().vocab;
  const auto found = std::ranges::find_if(tokens, [vocab](Token token) { return token >= vocab; });
  if (found == tokens.end()) return absl::OkStatus();
  return invalid_field(
      field,
      absl::StrCat("it has the token ", std::string(engine.tokenizer().token_text(*found)),
                   " with the id ", *found, ", but the model's vocabulary has ", vocab,
                   " ids (vocab_size)"),
      reason::kUnknownToken);
}

absl::Status text_error(const std::string& field, const absl::Status& status) {
  // RESOURCE_EXHAUSTED: the text is too much for the pattern, whenever it comes; or, with a
  // refusal, there is no memory for it now.
  const bool is_of_text = absl::IsInvalidArgument(status) || absl::IsResourceExhausted(status);
  if (!is_of_text || refusal_of(status)) return status;
  return invalid_field(field, message_of(status));
}

absl::StatusOr<PromptEncoder> PromptEncoder::create(const Engine& engine,
                                                    const PromptOptions& options) {
  PromptEncoder encoder(engine, options.parse_special_tokens.value_or(false));
  if (options.add_bos == false) return encoder;
  const auto prefix = engine.tokenizer().prefix_tokens();
  encoder.text_bos_.assign(prefix.begin(), prefix.end());
  const auto suffix = engine.tokenizer().suffix_tokens();
  encoder.text_end_.assign(suffix.begin(), suffix.end());
  if (!options.add_bos.has_value()) return encoder;
  if (encoder.text_bos_.empty()) {
    const auto& bos = engine.model().bos_token;
    if (!bos) return invalid_field("add_bos", "the model has no BOS token");
    encoder.text_bos_ = {*bos};
  }
  encoder.ids_bos_ = encoder.text_bos_;
  return encoder;
}

absl::StatusOr<std::vector<Token>> PromptEncoder::part(std::string_view text,
                                                       const std::string& field,
                                                       const EncodingBounds& bounds) const {
  auto tokens = engine_->tokenizer().encode(text, {.add_special_tokens = false,
                                                   .parse_special_tokens = parse_special_tokens_,
                                                   .bounds = bounds});
  if (!tokens.ok()) return text_error(field, tokens.status());
  if (absl::Status status = check_known(*engine_, *tokens, field); !status.ok()) return status;
  return tokens;
}

void PromptEncoder::complete(std::vector<Token>& tokens) const {
  put_bos(text_bos_, tokens);
  tokens.insert(tokens.end(), text_end_.begin(), text_end_.end());
}

absl::StatusOr<std::vector<Token>> PromptEncoder::text(std::string_view text,
                                                       const std::string& field, bool is_complete,
                                                       const EncodingBounds& bounds) const {
  auto tokens = part(text, field, bounds);
  if (!tokens.ok()) return tokens.status();
  if (is_complete) {
    complete(*tokens);
  } else {
    put_bos(text_bos_, *tokens);
  }
  return tokens;
}

absl::StatusOr<std::vector<Token>> PromptEncoder::ids(std::span<const Token> ids,
                                                      const std::string& field) const {
  absl::Status status = check_tokens(field, ids, engine_->model().vocab);
  if (!status.ok()) return status;
  std::vector<Token> tokens(ids.begin(), ids.end());
  put_bos(ids_bos_, tokens);
  return tokens;
}

size_t PromptEncoder::bos_count(const std::vector<Token>& tokens) const {
  return starts_with(tokens, text_bos_) ? text_bos_.size() : 0;
}

absl::StatusOr<EncodedPrompt> encode_prompt(const Prompt& prompt, const PromptOptions& options,
                                            const Engine& engine, RequestGuard& guard,
                                            std::optional<int64_t> max_tokens) {
  EncodingBounds bounds{.watch = &guard};
  if (max_tokens) bounds.max_tokens = static_cast<size_t>(*max_tokens);
  auto encoded = encode_within(prompt, options, engine, guard, bounds);
  if (absl::IsOutOfRange(encoded.status())) {
    return invalid_field("tokens",
                         absl::StrCat("the prompt has more than ", *max_tokens,
                                      " tokens; at most so many leave room for a new one in the "
                                      "model's context"),
                         reason::kTooLong);
  }
  if (!encoded.ok()) return encoded.status();
  const auto bytes = static_cast<int64_t>(encoded->tokens.capacity() * sizeof(Token));
  if (absl::Status status = guard.hold_more(bytes); !status.ok()) return status;
  return encoded;
}

}  // namespace kascade::core
