// Encodes a conversation as the tokens of a chat prompt. Control tokens are inserted by id and
// message contents are encoded as plain text, so that no content can forge a control token.
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
  std::string content{};  // UTF-8; white space at both ends is removed
};

enum class ChatFormat : uint8_t { kLlama3, kLlama2 };

// Returns "llama3" or "llama2".
std::string_view name_of(ChatFormat format);

struct ChatPrompt {
  std::vector<int32_t> tokens{};  // starts with BOS; the assistant's answer follows
  // tokens that end the answer, in addition to the model's own end tokens
  std::vector<int32_t> end_tokens{};
};

// Llama 3: the prompt is BOS, then for each message <|start_header_id|>role<|end_header_id|>, two
// line feeds, the content and <|eot_id|>, and at the end the header of the assistant. This is
// Meta's plain form, without the block that states dates.
// Llama 2: each question with an answer becomes <s>[INST] question [/INST] answer </s>; then
// follows <s>[INST] question [/INST]. A system message is put before the first question as
// <<SYS>>\n…\n<</SYS>>\n\n. These marks are ordinary text, so a content that has one of them is
// refused.
//
// Errors: INVALID_ARGUMENT "messages[2].role: …" if the last message is not the user's, or, for
// Llama 2, if user and assistant do not take turns after at most one system message. Contents are
// checked as Tokenizer::encode checks its text. FAILED_PRECONDITION if the tokenizer lacks a
// special token of the format.
absl::StatusOr<ChatPrompt> encode_chat(const Tokenizer& tokenizer, ChatFormat format,
                                       std::span<const ChatMessage> messages);

// Finds the chat format of the model in `directory` from its chat template (chat_template.jinja, or
// the field chat_template in tokenizer_config.json). A template is known by the digest of its whole
// text; one that only resembles a known one may ask for more, and is refused. A folder without a
// template has Llama 3's format if the tokenizer has Llama 3's header tokens. FAILED_PRECONDITION
// if the format cannot be told; INVALID_ARGUMENT for a damaged file.
absl::StatusOr<ChatFormat> find_chat_format(const std::filesystem::path& directory,
                                            const Tokenizer& tokenizer);

}  // namespace kascade

#endif  // KASCADE_ENGINE_TOKENIZER_CHAT_H_
