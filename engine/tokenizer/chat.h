// Conversations as the tokens of a chat prompt. Control tokens are put in by id and contents are
// encoded as plain text, so that no content can forge a control token.
#ifndef KASCADE_ENGINE_TOKENIZER_CHAT_H_
#define KASCADE_ENGINE_TOKENIZER_CHAT_H_

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/tokenizer/tokenizer.h"

namespace kascade {

enum class ChatRole : uint8_t { kSystem, kUser, kAssistant };

struct ChatMessage {
  ChatRole role = ChatRole::kUser;
  std::string content{};  // UTF-8; white space at both ends does not count
};

enum class ChatFormat : uint8_t { kLlama3, kLlama2 };

// "llama3", "llama2".
std::string_view name_of(ChatFormat format);

struct ChatPrompt {
  std::vector<int32_t> tokens{};      // BOS included; the answer comes next
  std::vector<int32_t> end_tokens{};  // end the answer, beside the model's own end tokens
};

// Llama 3: BOS, for each message <|start_header_id|>role<|end_header_id|>, two line feeds, content,
// <|eot_id|>; then the header of the assistant. Meta's plain form: no block with dates.
// Llama 2: for each answered question <s>[INST] question [/INST] answer </s>, then
// <s>[INST] question [/INST]; the system message is <<SYS>>\n…\n<</SYS>>\n\n in front of the first
// question. As these marks are text, a content with one of them is refused.
//
// INVALID_ARGUMENT "messages[2].role: …": the last message must be the user's; for Llama 2 user and
// assistant take turns, behind at most one system message. Contents: as Tokenizer::encode.
// FAILED_PRECONDITION: the tokenizer lacks a special token of the format.
absl::StatusOr<ChatPrompt> encode_chat(const Tokenizer& tokenizer, ChatFormat format,
                                       std::span<const ChatMessage> messages);

// The format of the model in `directory`: that of its chat template (chat_template.jinja, or
// chat_template in tokenizer_config.json); without a template Llama 3's if the tokenizer has its
// header tokens. FAILED_PRECONDITION when this tells neither; INVALID_ARGUMENT for a damaged file.
absl::StatusOr<ChatFormat> find_chat_format(const std::filesystem::path& directory,
                                            const Tokenizer& tokenizer);

}  // namespace kascade

#endif  // KASCADE_ENGINE_TOKENIZER_CHAT_H_
