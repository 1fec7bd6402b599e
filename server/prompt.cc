#include "server/prompt.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/errors.h"

namespace kascade::server {
namespace {

absl::StatusOr<ChatRole> role_of(const v1::ChatMessage& message, int index) {
  switch (message.role()) {
    case v1::CHAT_ROLE_SYSTEM:
      return ChatRole::kSystem;
    case v1::CHAT_ROLE_USER:
      return ChatRole::kUser;
    case v1::CHAT_ROLE_ASSISTANT:
      return ChatRole::kAssistant;
    default:
      return invalid_field(
          absl::StrCat("chat.messages[", index, "].role"),
          absl::StrCat("must be SYSTEM, USER or ASSISTANT, got ", int{message.role()}));
  }
}

absl::Status no_chat_format(const absl::Status& status) {
  return failed_precondition(absl::StrCat("chat.format: ", status.message()), reason::kNoChatFormat,
                             "chat.format",
                             "name a format that the model was trained on, or send text or token "
                             "ids");
}

absl::StatusOr<ChatFormat> format_of(const v1::ChatPrompt& chat, const Engine& engine) {
  switch (chat.format()) {
    case v1::CHAT_FORMAT_LLAMA3:
      return ChatFormat::kLlama3;
    case v1::CHAT_FORMAT_LLAMA2:
      return ChatFormat::kLlama2;
    case v1::CHAT_FORMAT_UNSPECIFIED:
      if (engine.chat_format().ok()) return engine.chat_format();
      return no_chat_format(engine.chat_format().status());
    default:
      return invalid_field("chat.format", absl::StrCat("unknown value ", int{chat.format()}));
  }
}

}  // namespace

absl::StatusOr<PromptEncoder> PromptEncoder::create(const Engine& engine,
                                                    const PromptOptions& options) {
  PromptEncoder encoder(engine, options);
  if (options.add_bos == false) return encoder;
  const auto prefix = engine.tokenizer().prefix_tokens();
  encoder.text_bos_.assign(prefix.begin(), prefix.end());
  if (!options.add_bos.has_value()) return encoder;
  if (encoder.text_bos_.empty()) {
    const auto& bos = engine.model().bos_token;
    if (!bos) return invalid_field("add_bos", "the model has no BOS token");
    encoder.text_bos_ = {*bos};
  }
  encoder.ids_bos_ = encoder.text_bos_;
  return encoder;
}

absl::StatusOr<std::vector<Token>> PromptEncoder::text(std::string_view text,
                                                       const std::string& field) const {
  auto tokens = engine_->tokenizer().encode(
      text, {.add_special_tokens = false, .parse_special_tokens = options_.parse_special_tokens});
  if (!tokens.ok()) {
    // RESOURCE_EXHAUSTED: the text is too much for the pattern, whenever it comes.
    const absl::StatusCode code = tokens.status().code();
    if (code != absl::StatusCode::kInvalidArgument &&
        code != absl::StatusCode::kResourceExhausted) {
      return tokens.status();
    }
    return invalid_field(field, std::string(tokens.status().message()));
  }
  const size_t there = bos_count(*tokens);
  if (there == 0) tokens->insert(tokens->begin(), text_bos_.begin(), text_bos_.end());
  return tokens;
}

absl::StatusOr<std::vector<Token>> PromptEncoder::ids(const v1::TokenIds& ids,
                                                      const std::string& field) const {
  const absl::Status status = check_ids(ids.ids(), engine_->model().vocab, field + ".ids");
  if (!status.ok()) return status;
  std::vector<Token> tokens(ids.ids().begin(), ids.ids().end());
  const bool there = tokens.size() >= ids_bos_.size() &&
                     std::equal(ids_bos_.begin(), ids_bos_.end(), tokens.begin());
  if (!there) tokens.insert(tokens.begin(), ids_bos_.begin(), ids_bos_.end());
  return tokens;
}

size_t PromptEncoder::bos_count(const std::vector<Token>& tokens) const {
  const bool there = tokens.size() >= text_bos_.size() &&
                     std::equal(text_bos_.begin(), text_bos_.end(), tokens.begin());
  return there ? text_bos_.size() : 0;
}

absl::StatusOr<ChatPrompt> encode_chat(const v1::ChatPrompt& chat, const Engine& engine) {
  std::vector<ChatMessage> messages;
  for (const v1::ChatMessage& message : chat.messages()) {
    const auto role = role_of(message, static_cast<int>(messages.size()));
    if (!role.ok()) return role.status();
    messages.push_back({*role, message.content()});
  }
  const auto format = format_of(chat, engine);
  if (!format.ok()) return format.status();
  auto prompt = kascade::encode_chat(engine.tokenizer(), *format, messages);
  if (prompt.ok()) return prompt;
  if (absl::IsFailedPrecondition(prompt.status())) return no_chat_format(prompt.status());
  return with_field_prefix(prompt.status(), "chat");
}

v1::ChatFormat to_proto(ChatFormat format) {
  return format == ChatFormat::kLlama3 ? v1::CHAT_FORMAT_LLAMA3 : v1::CHAT_FORMAT_LLAMA2;
}

absl::Status check_ids(const google::protobuf::RepeatedField<int32_t>& ids, int32_t vocab,
                       const std::string& field) {
  for (int i = 0; i < ids.size(); ++i) {
    if (ids[i] >= 0 && ids[i] < vocab) continue;
    return invalid_field(absl::StrCat(field, "[", i, "]"),
                         absl::StrCat("must be in [0, ", vocab, "), got ", ids[i]),
                         reason::kUnknownToken);
  }
  return absl::OkStatus();
}

}  // namespace kascade::server
