// How a model is asked for pass keys: in plain text that it continues, or in a chat.
#ifndef KASCADE_CLIENT_EVAL_PROMPT_STYLE_H_
#define KASCADE_CLIENT_EVAL_PROMPT_STYLE_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "client/eval/pass_key.h"
#include "client/rpc/session.h"

namespace kascade::client {

struct PromptStyle {
  // What a prompt begins and ends with: a BOS token, or what the chat template writes around the
  // message of the user.
  PromptFrame frame{};
  Wording wording{};
  int32_t answer_tokens = 0;  // that the model may generate
  bool is_chat = false;

  // Whether `text` answers with `key`. A continued prompt must go on with the key. The answer of a
  // chat may be a sentence; the first number in it counts.
  bool is_answer(std::string_view text, std::string_view key) const;
};

// Whether to ask in a chat. `choice` is "on", "off", or "auto": if the server knows the model's
// chat template.
bool wants_chat(const std::string& choice, const v1::ModelInfo& model);

// The style for the served model. A chat's frame is learned from the server, with two requests of
// one token. FAILED_PRECONDITION for a chat if the server knows no chat template for the model.
absl::StatusOr<PromptStyle> prompt_style(Session& session, bool chat);

// The frame of two prompts that differ in the message of the user alone: the tokens with which both
// begin and those with which both end.
PromptFrame frame_of(const std::vector<int32_t>& first, const std::vector<int32_t>& second);

// "chat in the format smollm2", or "plain text".
std::string describe(const PromptStyle& style, const v1::ModelInfo& model);

}  // namespace kascade::client

#endif  // KASCADE_CLIENT_EVAL_PROMPT_STYLE_H_
