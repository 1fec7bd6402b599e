#include "engine/tokenizer/chat.h"

#include <algorithm>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/base/check.h"
#include "engine/tokenizer/chat_format.h"
#include "engine/tokenizer/utf8.h"

namespace kascade {
namespace {

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

absl::Status check_turns(std::span<const ChatMessage> messages, size_t first) {
  for (size_t i = first; i < messages.size(); ++i) {
    const bool wants_user = (i - first) % 2 == 0;
    if (messages[i].role == (wants_user ? ChatRole::kUser : ChatRole::kAssistant)) continue;
    return wrong_role(i, messages[i].role,
                      wants_user ? "user: user and assistant take turns"
                                 : "assistant: user and assistant take turns");
  }
  return absl::OkStatus();
}

absl::Status check_roles(std::span<const ChatMessage> messages, MessageOrder order) {
  if (messages.empty()) return absl::InvalidArgumentError("messages: must not be empty");
  const size_t last = messages.size() - 1;
  if (messages[last].role != ChatRole::kUser) {
    return wrong_role(last, messages[last].role, "user: the last message is the one to answer");
  }
  const size_t first = messages.front().role == ChatRole::kSystem ? 1 : 0;
  switch (order) {
    case MessageOrder::kAny:
      return absl::OkStatus();
    case MessageOrder::kSystemFirst:
      for (size_t i = first; i < messages.size(); ++i) {
        if (messages[i].role != ChatRole::kSystem) continue;
        return wrong_role(i, ChatRole::kSystem, "user or assistant: a system message comes first");
      }
      return absl::OkStatus();
    case MessageOrder::kTakeTurns:
      return check_turns(messages, first);
    case MessageOrder::kTakeTurnsAlone:
      return check_turns(messages, 0);
  }
  KASCADE_CHECK(false);
}

// Builds a prompt from the rows of a format, and keeps the first error.
class PromptWriter {
 public:
  PromptWriter(const Tokenizer& tokenizer, const ChatFormatText& format)
      : tokenizer_(tokenizer), format_(format) {
    for (const std::string_view token : format.tokens) {
      if (!add_mark(token)) fail(missing(token));
    }
    for (const std::string_view mark : format.marks) {
      if (!add_mark(mark)) plain_.push_back(mark);
    }
  }

  // Adds text of the format, in which tokens are spelled out.
  void add_format_text(std::string_view text) {
    while (!text.empty()) {
      const Mark* next = nullptr;
      size_t begin = text.size();
      for (const Mark& mark : marks_) {
        const size_t found = text.find(mark.text);
        if (found >= begin) continue;
        begin = found;
        next = &mark;
      }
      add_text(text.substr(0, begin));
      if (!next) return;
      parts_.push_back({.token = next->id});
      text.remove_prefix(begin + next->text.size());
    }
  }

  // Refuses what the content of message `index` must not have.
  void check_content(std::string_view content, size_t index) {
    if (const size_t valid = bpe::valid_utf8_length(content); valid < content.size()) {
      fail(absl::InvalidArgumentError(
          absl::StrCat(path_of(index), ".content: text is not UTF-8 at byte ", valid)));
    }
    for (const std::string_view mark : plain_) {
      if (content.find(mark) == std::string::npos) continue;
      fail(absl::InvalidArgumentError(absl::StrCat(path_of(index), ".content: has ", shown(mark),
                                                   ", a mark of the chat format ",
                                                   std::string(format_.name))));
    }
  }

  // Adds text in which nothing is a token.
  void add_text(std::string_view text) {
    if (text.empty()) return;
    // A token may span the border of two texts.
    const bool follows_text = !parts_.empty() && !parts_.back().token;
    if (!follows_text) parts_.emplace_back();
    parts_.back().text += text;
  }

  absl::StatusOr<ChatPrompt> finish(const EncodingBounds& bounds) {
    if (!status_.ok()) return status_;
    auto tokens = tokenizer_.encode_parts(parts_, bounds);
    if (absl::IsInvalidArgument(tokens.status())) {
      return absl::InvalidArgumentError(absl::StrCat("messages: ", tokens.status().message()));
    }
    if (!tokens.ok()) return tokens.status();
    const std::optional<int32_t> end = tokenizer_.token_id(format_.end);
    KASCADE_CHECK(end.has_value());  // it is one of format_.tokens
    return ChatPrompt{.tokens = *std::move(tokens), .end_tokens = {*end}};
  }

 private:
  struct Mark {
    std::string_view text;
    int32_t id;
  };

  // Line feeds are shown as \n.
  static std::string shown(std::string_view mark) {
    std::string text;
    for (const char c : mark) text += c == '\n' ? std::string("\\n") : std::string(1, c);
    return text;
  }

  // False if the tokenizer has no such token.
  bool add_mark(std::string_view text) {
    const std::optional<int32_t> id = tokenizer_.token_id(text);
    if (!id) return false;
    marks_.push_back({text, *id});
    // A token that is not special may come out of a content.
    if (!tokenizer_.is_special(*id)) plain_.push_back(text);
    return true;
  }

  absl::Status missing(std::string_view token) const {
    return absl::FailedPreconditionError(
        absl::StrCat("the tokenizer has no token ", std::string(token), ", which the chat format ",
                     std::string(format_.name), " needs"));
  }

  void fail(const absl::Status& status) {
    if (status_.ok()) status_ = status;
  }

  const Tokenizer& tokenizer_;
  const ChatFormatText& format_;
  std::vector<Mark> marks_{};
  std::vector<std::string_view> plain_{};  // strings that no content may have
  std::vector<PromptPart> parts_{};
  absl::Status status_{};
};

std::string_view repeated_part(std::string_view answer, AnswerPart part) {
  constexpr std::string_view kThoughtEnd = "</think>";
  const size_t end = answer.rfind(kThoughtEnd);
  if (part == AnswerPart::kAll || end == std::string::npos) return answer;
  answer.remove_prefix(end + kThoughtEnd.size());
  while (part == AnswerPart::kBehindThoughtAndLineEnds && answer.starts_with('\n')) {
    answer.remove_prefix(1);
  }
  return answer;
}

// Writes the messages of a chat in order.
class ChatWriter {
 public:
  ChatWriter(const Tokenizer& tokenizer, const ChatFormatText& format)
      : format_(format), writer_(tokenizer, format) {}

  absl::StatusOr<ChatPrompt> write(std::span<const ChatMessage> messages,
                                   const EncodingBounds& bounds) {
    const bool has_system = messages.front().role == ChatRole::kSystem;
    const bool own_turn = format_.system_place == SystemPlace::kOwnTurn;
    writer_.add_format_text(format_.start);
    if (!has_system && format_.default_system) {
      writer_.add_format_text(format_.system.before);
      writer_.add_format_text(*format_.default_system);
      writer_.add_format_text(format_.system.after);
    }
    const size_t first = has_system && !own_turn ? 1 : 0;
    const size_t with_system =
        format_.system_place == SystemPlace::kInFirstQuestion ? first : messages.size() - 1;
    for (size_t i = first; i < messages.size(); ++i) {
      const bool takes_system = first == 1 && i == with_system;
      write_message(messages[i], i,
                    takes_system ? messages[0].content : std::optional<std::string>{});
    }
    writer_.add_format_text(format_.answer);
    return writer_.finish(bounds);
  }

 private:
  // `system` is the content of a system message that stands in front of this one's content.
  void write_message(const ChatMessage& message, size_t index,
                     const std::optional<std::string>& system) {
    const TurnText& turn = turn_of(message.role);
    std::string_view content = message.content;
    if (message.role == ChatRole::kAssistant) {
      content = repeated_part(content, format_.repeated_answers);
    }
    writer_.check_content(content, index);
    std::string joined;
    if (system) {
      writer_.check_content(*system, 0);
      joined = absl::StrCat(std::string(format_.system.before), *system,
                            std::string(format_.system.after), std::string(content));
      content = joined;
    }
    writer_.add_format_text(turn.before);
    writer_.add_text(turn.trims ? trimmed(content) : content);
    writer_.add_format_text(turn.after);
  }

  const TurnText& turn_of(ChatRole role) const {
    switch (role) {
      case ChatRole::kSystem:
        return format_.system;
      case ChatRole::kUser:
        return format_.user;
      case ChatRole::kAssistant:
        return format_.assistant;
    }
    KASCADE_CHECK(false);
  }

  const ChatFormatText& format_;
  PromptWriter writer_;
};

}  // namespace

absl::StatusOr<ChatPrompt> encode_chat(const Tokenizer& tokenizer, ChatFormat format,
                                       std::span<const ChatMessage> messages,
                                       const EncodingBounds& bounds) {
  const ChatFormatText& text = text_of(format);
  if (absl::Status status = check_roles(messages, text.order); !status.ok()) return status;
  const ChatMessage& first = messages.front();
  if (text.refuses_empty_system && first.role == ChatRole::kSystem && first.content.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("messages[0].content: is empty; templates of the chat format ",
                     std::string(text.name), " do not agree about an empty system message"));
  }
  return ChatWriter(tokenizer, text).write(messages, bounds);
}

}  // namespace kascade
