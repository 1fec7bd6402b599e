#include "engine/calibration/pass_keys.h"

#include <algorithm>
#include <iterator>
#include <random>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace kascade {
namespace {

constexpr int32_t kShortestOfSeveral = 1024;  // halves of the longest length that are asked, too
constexpr int32_t kLeastQuestions = 4;
constexpr int32_t kMostQuestions = 20;
constexpr int32_t kSeveralKeys = 4;

constexpr const char* kOwners[] = {"Adam",   "Agnes",  "Albert", "Anna",   "Bruno",  "Carla",
                                   "Dora",   "Edgar",  "Emma",   "Felix",  "Gustav", "Hanna",
                                   "Ida",    "Jacob",  "Karl",   "Leo",    "Maria",  "Nora",
                                   "Robert", "Sophie", "Teresa", "Victor", "William"};

struct PassKey {
  std::string owner{};
  std::string key{};  // five digits

  std::string statement() const {
    return absl::StrCat("\n\nThe pass key for ", owner, " is ", key, ". Remember it.\n\n");
  }
  std::string question() const { return absl::StrCat("\n\nWhat is the pass key for ", owner, "?"); }
  std::string begin_of_answer() const { return absl::StrCat("The pass key for ", owner, " is"); }
};

// The distributions of the standard library differ between implementations; its generators do not.
double share_of(std::mt19937_64& random) { return static_cast<double>(random() >> 11) * 0x1p-53; }
size_t below(std::mt19937_64& random, size_t count) {
  return static_cast<size_t>(share_of(random) * static_cast<double>(count));
}

// Keys of different owners.
std::vector<PassKey> draw_keys(std::mt19937_64& random, int32_t count) {
  std::vector<PassKey> keys;
  while (std::ssize(keys) < count) {
    PassKey key{.owner = kOwners[below(random, std::size(kOwners))],
                .key = absl::StrFormat("%05d", below(random, 100000))};
    const bool is_new = std::ranges::none_of(keys, [&](const PassKey& other) {
      return other.owner == key.owner || other.key == key.key;
    });
    if (is_new) keys.push_back(std::move(key));
  }
  return keys;
}

void append(std::span<const Token> tokens, std::vector<Token>& out) {
  out.insert(out.end(), tokens.begin(), tokens.end());
}

// What stands around the content of a chat's only message: the tokens that two chats of different
// contents have in common at their begins and ends.
struct Frame {
  std::vector<Token> before{};
  std::vector<Token> after{};
};

absl::StatusOr<Frame> chat_frame(const Tokenizer& tokenizer, ChatFormat format) {
  std::vector<Token> chats[2];
  for (const auto& [index, content] : {std::pair{0, "Some words."}, {1, "Other ones!"}}) {
    const ChatMessage message{.content = content};
    auto prompt = encode_chat(tokenizer, format, {&message, 1});
    if (!prompt.ok()) return prompt.status();
    chats[index] = std::move(prompt->tokens);
  }
  const auto begin = std::ranges::mismatch(chats[0], chats[1]).in1;
  const auto end = std::mismatch(chats[0].rbegin(), std::make_reverse_iterator(begin),
                                 chats[1].rbegin(), chats[1].rend())
                       .first.base();
  return Frame{.before = {chats[0].begin(), begin}, .after = {end, chats[0].end()}};
}

// Writes questions in one style: as a chat, or as running text.
class QuestionWriter {
 public:
  QuestionWriter(const Tokenizer& tokenizer, std::span<const Token> text)
      : tokenizer_(tokenizer), text_(text) {
    const std::span<const int32_t> prefix = tokenizer.prefix_tokens();
    frame_.before.assign(prefix.begin(), prefix.end());
  }

  absl::Status set_chat(ChatFormat format) {
    auto frame = chat_frame(tokenizer_, format);
    if (!frame.ok()) return frame.status();
    frame_ = *std::move(frame);
    is_chat_ = true;
    return absl::OkStatus();
  }

  // A question of `tokens` tokens that hides `keys` keys. Its tokens are empty if the text is too
  // short, or the question too short for its keys.
  absl::StatusOr<Question> write(int32_t tokens, int32_t keys, std::mt19937_64& random) {
    const std::vector<PassKey> drawn = draw_keys(random, keys);
    const size_t asked = below(random, drawn.size());
    std::vector<double> places;  // of the statements, as shares of the text between them
    for (int32_t i = 0; i < keys; ++i) places.push_back(share_of(random));
    std::ranges::sort(places);
    const double start = share_of(random);
    auto end = end_of(drawn[asked]);
    if (!end.ok()) return end.status();
    std::vector<std::vector<Token>> statements;
    int64_t room = tokens - std::ssize(frame_.before) - std::ssize(end->tokens);
    for (const PassKey& key : drawn) {
      auto statement = encode(key.statement());
      if (!statement.ok()) return statement.status();
      room -= std::ssize(*statement);
      statements.push_back(*std::move(statement));
    }
    if (room < 0 || room > std::ssize(text_)) return Question{};
    const auto begin = static_cast<size_t>(start * static_cast<double>(std::ssize(text_) - room));
    Question question{.tokens = frame_.before};
    add_statements(statements, places, text_.subspan(begin, static_cast<size_t>(room)),
                   question.tokens);
    question.answer_begin = static_cast<int32_t>(std::ssize(question.tokens)) + end->answer_begin;
    append(end->tokens, question.tokens);
    return question;
  }

 private:
  absl::StatusOr<std::vector<Token>> encode(const std::string& text) const {
    return tokenizer_.encode(text, {.add_special_tokens = false});
  }

  // The question, what stands behind it, and the answer.
  absl::StatusOr<Question> end_of(const PassKey& key) const {
    Question end;
    std::string begin_of_answer = key.begin_of_answer();
    if (is_chat_) {
      auto question = encode(key.question());
      if (!question.ok()) return question.status();
      append(*question, end.tokens);
      append(frame_.after, end.tokens);
    } else {
      begin_of_answer = absl::StrCat(key.question(), " ", begin_of_answer);
    }
    // The answer begins where the tokens differ from those of the text without it.
    const auto without = encode(begin_of_answer);
    const auto with = encode(absl::StrCat(begin_of_answer, " ", key.key));
    if (!without.ok()) return without.status();
    if (!with.ok()) return with.status();
    const auto answer = std::ranges::mismatch(*with, *without).in1 - with->begin();
    end.answer_begin = static_cast<int32_t>(std::ssize(end.tokens) + answer);
    append(*with, end.tokens);
    return end;
  }

  static void add_statements(const std::vector<std::vector<Token>>& statements,
                             const std::vector<double>& places, std::span<const Token> text,
                             std::vector<Token>& out) {
    size_t used = 0;
    for (size_t i = 0; i < statements.size(); ++i) {
      const auto until = static_cast<size_t>(places[i] * static_cast<double>(text.size()));
      append(text.subspan(used, until - used), out);
      append(statements[i], out);
      used = until;
    }
    append(text.subspan(used), out);
  }

  const Tokenizer& tokenizer_;
  std::span<const Token> text_;
  Frame frame_{};
  bool is_chat_ = false;
};

// Ascending.
std::vector<int32_t> lengths_of(int32_t most, int32_t least) {
  std::vector<int32_t> lengths;
  if (most < least) return lengths;
  lengths.push_back(most);
  while (lengths.back() / 2 >= std::max(least, kShortestOfSeveral)) {
    lengths.push_back(lengths.back() / 2);
  }
  std::ranges::reverse(lengths);
  return lengths;
}

}  // namespace

absl::StatusOr<std::vector<QuestionsOfLength>> pass_key_questions(const Tokenizer& tokenizer,
                                                                  std::span<const Token> text,
                                                                  const PassKeySettings& settings) {
  QuestionWriter writer(tokenizer, text);
  if (settings.chat_format) {
    if (absl::Status status = writer.set_chat(*settings.chat_format); !status.ok()) return status;
  }
  const auto most = static_cast<int32_t>(std::min<int64_t>(settings.most_tokens, std::ssize(text)));
  const std::vector<int32_t> lengths = lengths_of(most, settings.least_tokens);
  std::mt19937_64 random(1);
  std::vector<QuestionsOfLength> result;
  for (const int32_t length : lengths) {
    const int64_t fitting = settings.tokens / std::ssize(lengths) / length;
    QuestionsOfLength& of_length = result.emplace_back(QuestionsOfLength{.tokens = length});
    for (int64_t i = 0; i < std::clamp<int64_t>(fitting, kLeastQuestions, kMostQuestions); ++i) {
      auto question = writer.write(length, i % 2 == 0 ? 1 : kSeveralKeys, random);
      if (!question.ok()) return question.status();
      if (question->tokens.empty()) continue;
      of_length.questions.push_back(*std::move(question));
    }
  }
  std::erase_if(result, [](const QuestionsOfLength& length) { return length.questions.empty(); });
  return result;
}

int64_t count_tokens(const std::vector<QuestionsOfLength>& lengths) {
  int64_t tokens = 0;
  for (const QuestionsOfLength& length : lengths)
    tokens += length.tokens * std::ssize(length.questions);
  return tokens;
}

}  // namespace kascade
