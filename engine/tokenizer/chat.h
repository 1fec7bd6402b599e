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
  std::string content{};  // UTF-8
};

// docs/checkpoints.md says which models are trained on which format.
enum class ChatFormat : uint8_t {
  kLlama3,
  kLlama2,
  kLlama3Dated,  // Llama 3.1 and later: the system message begins with two dates
  kChatMl,
  kQwen2,  // ChatML with a default system message; so are the next one and SmolLM2's
  kQwen25,
  kQwen3,  // ChatML; earlier answers are repeated without the reasoning in them
  kSmolLm2,
  kYi,
  kZephyr,
  kPhi3,
  kGranite,
  kMistralV0,
  kMistralV1,
  kMistralV3,
  kMistralTekken,
  kVicuna,
  kDeepSeekLlm,
  kDeepSeekV3,
  kDeepSeekR1,
  kDeepSeekR1V0,
};

// Returns the name that clients use, such as "llama3" or "qwen2-5".
std::string_view name_of(ChatFormat format);

struct ChatPrompt {
  std::vector<int32_t> tokens{};  // the assistant's answer follows
  // tokens that end the answer, in addition to the model's own end tokens
  std::vector<int32_t> end_tokens{};
};

// Encodes the messages as the templates of the format write them (chat_format.cc has each format as
// text), including what they do to contents: some remove white space at both ends, or the reasoning
// in earlier answers. Marks of a format that are ordinary text, or tokens that are not special,
// must not be in a content: the model could not tell them from a turn of its own.
//
// Errors: INVALID_ARGUMENT "messages[2].role: …" if the last message is not the user's or the
// format does not allow a role there, and "messages[2].content: …" for a mark of the format or text
// that Tokenizer::encode refuses. FAILED_PRECONDITION if the tokenizer lacks a token of the format.
// OUT_OF_RANGE and the errors of the watch: see EncodingBounds.
absl::StatusOr<ChatPrompt> encode_chat(const Tokenizer& tokenizer, ChatFormat format,
                                       std::span<const ChatMessage> messages,
                                       const EncodingBounds& bounds = {});

// Finds the chat format of the model in `directory` from its chat template (chat_template.jinja, or
// the field chat_template in tokenizer_config.json). A template is known by the digest of its whole
// text; one that only resembles a known one may ask for more, and is refused. So is a model whose
// bos_token or eos_token (tokenizer_config.json) is not that of the format, where the template has
// these variables. A folder without a template has Llama 3's format if the tokenizer has Llama 3's
// header tokens. FAILED_PRECONDITION if the format cannot be told; INVALID_ARGUMENT for a damaged
// file.
absl::StatusOr<ChatFormat> find_chat_format(const std::filesystem::path& directory,
                                            const Tokenizer& tokenizer);

}  // namespace kascade

#endif  // KASCADE_ENGINE_TOKENIZER_CHAT_H_
