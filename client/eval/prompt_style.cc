#include "client/eval/prompt_style.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "client/views/reports.h"

namespace kascade::client {
namespace {

constexpr int32_t kPlainAnswerTokens = 12;  // five digits and what a tokenizer may put around them
constexpr int32_t kChatAnswerTokens = 32;   // a sentence that names whom the key is for

constexpr std::string_view kDigits = "0123456789";

// The tokens of a chat of one message.
absl::StatusOr<std::vector<int32_t>> chat_tokens(Session& session, const std::string& content) {
  v1::GenerateRequest request;
  auto& message = *request.mutable_chat()->add_messages();
  message.set_role(v1::CHAT_ROLE_USER);
  message.set_content(content);
  request.mutable_sampling()->set_temperature(0);
  request.mutable_stopping()->set_max_new_tokens(1);
  request.mutable_response()->set_prompt_token_ids(true);
  request.mutable_attention()->set_mode(v1::ATTENTION_MODE_DENSE);
  const auto generated = session.generate(request);
  if (!generated.ok()) return generated.status();
  const auto& ids = generated->started.prompt_token_ids();
  return std::vector<int32_t>(ids.begin(), ids.end());
}

}  // namespace

bool PromptStyle::is_answer(std::string_view text, std::string_view key) const {
  const size_t begin = is_chat ? text.find_first_of(kDigits) : text.find_first_not_of(" \n");
  if (begin == std::string_view::npos) return false;
  const size_t end = std::min(text.find_first_not_of(kDigits, begin), text.size());
  return text.substr(begin, end - begin) == key;
}

bool wants_chat(const std::string& choice, const v1::ModelInfo& model) {
  if (choice != "auto") return choice == "on";
  return model.chat_format() != v1::CHAT_FORMAT_UNSPECIFIED;
}

absl::StatusOr<PromptStyle> prompt_style(Session& session, bool chat) {
  const v1::ModelInfo& model = session.info().model();
  if (!chat) {
    PromptStyle style{.wording = plain_wording(), .answer_tokens = kPlainAnswerTokens};
    if (model.adds_bos()) style.frame.before = {model.bos_token_id()};
    return style;
  }
  // They begin and end with different tokens.
  const auto first = chat_tokens(session, "One apple.");
  if (!first.ok()) return first.status();
  const auto second = chat_tokens(session, "Two zebras!");
  if (!second.ok()) return second.status();
  return PromptStyle{.frame = frame_of(*first, *second),
                     .wording = chat_wording(),
                     .answer_tokens = kChatAnswerTokens,
                     .is_chat = true};
}

PromptFrame frame_of(const std::vector<int32_t>& first, const std::vector<int32_t>& second) {
  const auto [begin, unused] = std::ranges::mismatch(first, second);
  const auto shared = begin - first.begin();
  // The ends must not overlap the beginnings where one prompt is a part of the other.
  const auto most = std::ssize(first.size() < second.size() ? first : second) - shared;
  std::ptrdiff_t same = 0;
  while (same < most && first.end()[-1 - same] == second.end()[-1 - same]) ++same;
  return {.before = {first.begin(), begin}, .after = {first.end() - same, first.end()}};
}

std::string describe(const PromptStyle& style, const v1::ModelInfo& model) {
  if (!style.is_chat) return "plain text";
  return fmt::format("chat in the format {}", name_of(model.chat_format()));
}

}  // namespace kascade::client
