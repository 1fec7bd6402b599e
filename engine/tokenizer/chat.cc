#include "engine/tokenizer/chat.h"

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/base/check.h"
#include "engine/tokenizer/utf8.h"

namespace kascade {
namespace {

constexpr std::string_view kSystemBegin = "<<SYS>>\n";
constexpr std::string_view kSystemEnd = "\n<</SYS>>\n\n";
// A content that has one of these is refused, whatever the white space around it.
constexpr std::string_view kLlama2Marks[] = {"[INST]", "[/INST]", "<<SYS>>", "<</SYS>>"};

constexpr const char* kBos3 = "<|begin_of_text|>";
constexpr const char* kHeaderBegin = "<|start_header_id|>";
constexpr const char* kHeaderEnd = "<|end_header_id|>";
constexpr const char* kTurnEnd = "<|eot_id|>";
constexpr const char* kBos2 = "<s>";
constexpr const char* kEos2 = "</s>";

std::string_view trimmed(std::string_view text) {
  text.remove_prefix(bpe::leading_space_length(text));
  text.remove_suffix(bpe::trailing_space_length(text));
  return text;
}

std::string_view name_of(ChatRole role) {
  switch (role) {
    case ChatRole::kSystem:
      return "system";
    case ChatRole::kUser:
      return "user";
    case ChatRole::kAssistant:
      return "assistant";
  }
  KASCADE_CHECK(false);
}

std::string path_of(size_t index) { return absl::StrCat("messages[", index, "]"); }

absl::Status wrong_role(size_t index, ChatRole found, const char* expected) {
  return absl::InvalidArgumentError(absl::StrCat(
      path_of(index), ".role: found ", std::string(name_of(found)), ", expected ", expected));
}

// Builds a prompt from control tokens and texts, and keeps the first error.
class PromptWriter {
 public:
  PromptWriter(const Tokenizer& tokenizer, ChatFormat format)
      : tokenizer_(tokenizer), format_(format) {}

  int32_t control(const char* name) {
    const std::optional<int32_t> id = tokenizer_.token_id(name);
    if (id && tokenizer_.is_special(*id)) return *id;
    fail(absl::FailedPreconditionError(
        absl::StrCat("the tokenizer has no special token ", name, ", which the chat format ",
                     std::string(kascade::name_of(format_)), " needs")));
    return 0;
  }

  void add_control(const char* name) { prompt.tokens.push_back(control(name)); }

  // `field` is named in the error if the text cannot be encoded.
  void add_text(std::string_view text, const std::string& field) {
    const auto ids = tokenizer_.encode(text, {.add_special_tokens = false});
    if (!ids.ok()) {
      fail(absl::Status(absl::StatusCode::kInvalidArgument,
                        absl::StrCat(field, ": ", ids.status().message())));
      return;
    }
    prompt.tokens.insert(prompt.tokens.end(), ids->begin(), ids->end());
  }

  void fail(const absl::Status& status) {
    if (status_.ok()) status_ = status;
  }

  absl::StatusOr<ChatPrompt> finish() {
    if (!status_.ok()) return status_;
    return std::move(prompt);
  }

  ChatPrompt prompt{};

 private:
  const Tokenizer& tokenizer_;
  ChatFormat format_;
  absl::Status status_{};
};

absl::StatusOr<ChatPrompt> encode_llama3(const Tokenizer& tokenizer,
                                         std::span<const ChatMessage> messages) {
  PromptWriter writer(tokenizer, ChatFormat::kLlama3);
  const auto add_header = [&](ChatRole role) {
    writer.add_control(kHeaderBegin);
    writer.add_text(name_of(role), "role");
    writer.add_control(kHeaderEnd);
    writer.add_text("\n\n", "role");
  };
  writer.add_control(kBos3);
  for (size_t i = 0; i < messages.size(); ++i) {
    add_header(messages[i].role);
    writer.add_text(trimmed(messages[i].content), path_of(i) + ".content");
    writer.add_control(kTurnEnd);
  }
  add_header(ChatRole::kAssistant);
  writer.prompt.end_tokens.push_back(writer.control(kTurnEnd));
  return writer.finish();
}

absl::Status check_llama2(std::span<const ChatMessage> messages) {
  const size_t first = messages.front().role == ChatRole::kSystem ? 1 : 0;
  for (size_t i = 0; i < messages.size(); ++i) {
    for (const std::string_view mark : kLlama2Marks) {
      if (messages[i].content.find(mark) == std::string::npos) continue;
      return absl::InvalidArgumentError(absl::StrCat(
          path_of(i), ".content: has ", std::string(mark), ", a mark of the chat format llama2"));
    }
    if (i < first) continue;
    const bool wants_user = (i - first) % 2 == 0;
    const ChatRole expected = wants_user ? ChatRole::kUser : ChatRole::kAssistant;
    if (messages[i].role != expected) {
      return wrong_role(i, messages[i].role,
                        wants_user ? "user: user and assistant take turns"
                                   : "assistant: user and assistant take turns");
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<ChatPrompt> encode_llama2(const Tokenizer& tokenizer,
                                         std::span<const ChatMessage> messages) {
  const absl::Status status = check_llama2(messages);
  if (!status.ok()) return status;
  PromptWriter writer(tokenizer, ChatFormat::kLlama2);
  std::string system;
  std::string turn;
  for (size_t i = 0; i < messages.size(); ++i) {
    const std::string_view content = messages[i].content;
    const std::string field = path_of(i) + ".content";
    switch (messages[i].role) {
      case ChatRole::kSystem:
        system =
            absl::StrCat(std::string(kSystemBegin), std::string(content), std::string(kSystemEnd));
        break;
      case ChatRole::kUser:
        system += content;
        turn = absl::StrCat("[INST] ", std::string(trimmed(system)), " [/INST]");
        system.clear();
        writer.add_control(kBos2);
        if (i + 1 == messages.size()) writer.add_text(turn, field);
        break;
      case ChatRole::kAssistant:
        // Both are encoded as one text, because a token may span the boundary.
        writer.add_text(absl::StrCat(turn, " ", std::string(trimmed(content)), " "), field);
        writer.add_control(kEos2);
        break;
    }
  }
  writer.prompt.end_tokens.push_back(writer.control(kEos2));
  return writer.finish();
}

}  // namespace

std::string_view name_of(ChatFormat format) {
  return format == ChatFormat::kLlama3 ? "llama3" : "llama2";
}

absl::StatusOr<ChatPrompt> encode_chat(const Tokenizer& tokenizer, ChatFormat format,
                                       std::span<const ChatMessage> messages) {
  if (messages.empty()) return absl::InvalidArgumentError("messages: must not be empty");
  const size_t last = messages.size() - 1;
  if (messages[last].role != ChatRole::kUser) {
    return wrong_role(last, messages[last].role, "user: the last message is the one to answer");
  }
  return format == ChatFormat::kLlama3 ? encode_llama3(tokenizer, messages)
                                       : encode_llama2(tokenizer, messages);
}

}  // namespace kascade
