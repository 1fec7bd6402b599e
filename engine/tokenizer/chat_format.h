// How each chat format is written: one row of text per role. chat.cc turns the rows into tokens.
#ifndef KASCADE_ENGINE_TOKENIZER_CHAT_FORMAT_H_
#define KASCADE_ENGINE_TOKENIZER_CHAT_FORMAT_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/tokenizer/chat.h"

namespace kascade {

// The text around the content of a message.
struct TurnText {
  std::string_view before{};
  std::string_view after{};
  bool trims = false;  // leaves out white space at both ends of the content
};

// Which messages may follow which. The last one is the user's in any case.
enum class MessageOrder : uint8_t {
  kAny,
  kSystemFirst,     // at most one system message, and only at the start
  kTakeTurns,       // after at most one system message, user and assistant take turns
  kTakeTurnsAlone,  // user and assistant take turns; there is no system message
};

// Where the system message stands.
enum class SystemPlace : uint8_t {
  kOwnTurn,
  kInFirstQuestion,  // in front of the content of the first question, inside its turn
  kInLastQuestion,
};

// How much of an earlier answer is repeated to a model that reasons before it answers.
enum class AnswerPart : uint8_t {
  kAll,
  kBehindThought,            // what follows the last "</think>"
  kBehindThoughtAndLineEnds  // the same without the line feeds at its start
};

struct ChatFormatText {
  std::string_view name{};
  std::string_view start{};  // in front of the first message
  TurnText system{};
  TurnText user{};
  TurnText assistant{};
  std::string_view answer{};  // asks for the answer, at the end of the prompt
  std::string_view end{};     // the token that ends an answer
  // Strings in the rows above that are tokens. The tokenizer must have them.
  std::vector<std::string_view> tokens{};
  // Strings that mark turns and are ordinary text in most tokenizers. A tokenizer that has one of
  // them as a token gets the token. A content that has one which is text is refused, because the
  // model could not tell it from a turn of its own.
  std::vector<std::string_view> marks{};
  MessageOrder order = MessageOrder::kAny;
  SystemPlace system_place = SystemPlace::kOwnTurn;
  // the system message of a chat without one; unset: there is none
  std::optional<std::string_view> default_system{};
  bool refuses_empty_system = false;
  AnswerPart repeated_answers = AnswerPart::kAll;
  // What the variables bos_token and eos_token of the format's templates stand for; empty if they
  // do not have that variable.
  std::string_view bos{};
  std::string_view eos{};
};

const ChatFormatText& text_of(ChatFormat format);

// The names of all formats, separated by ", ".
std::string chat_format_names();

}  // namespace kascade

#endif  // KASCADE_ENGINE_TOKENIZER_CHAT_FORMAT_H_
