#include "tools/train/question_texts.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "engine/model/json.h"

namespace kascade::train {
namespace {

using Json = nlohmann::json;

constexpr char kInstruction[] =
    "Solve the following problem clearly. If it takes at most two steps, be brief. Otherwise write "
    "every step on a line of its own that begins with \"## Step 1:\", \"## Step 2:\" and so on. "
    "End "
    "with \"The final answer is: $\\boxed{answer}$\".\n\nProblem: ";

std::string trimmed(std::string_view text) {
  constexpr std::string_view kSpace = " \t\r\n";
  const size_t begin = text.find_first_not_of(kSpace);
  if (begin == std::string_view::npos) return "";
  return std::string(text.substr(begin, text.find_last_not_of(kSpace) - begin + 1));
}

std::string boxed(const std::string& result) {
  return absl::StrCat("The final answer is: $\\boxed{", result, "}$");
}

// Lines that are not empty, as steps.
std::string steps(const std::vector<std::string>& lines, const std::string& result) {
  std::string answer;
  int step = 0;
  for (const std::string& line : lines) {
    if (!line.empty()) absl::StrAppend(&answer, "## Step ", ++step, ": ", line, "\n");
  }
  return answer + boxed(result);
}

std::vector<std::string> lines_of(std::string_view text) {
  std::vector<std::string> lines;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    lines.push_back(trimmed(text.substr(begin, end - begin)));
    begin = end + 1;
  }
  return lines;
}

// Reads the fields of one line.
class Line {
 public:
  Line(const Json& object, std::string where) : object_(object), where_(std::move(where)) {}

  absl::StatusOr<std::string> text(const char* field) const {
    const auto found = object_.find(field);
    if (found != object_.end() && found->is_string()) return found->get<std::string>();
    return fault(field, "must be a text");
  }
  absl::StatusOr<std::vector<std::string>> texts(const char* field) const {
    std::vector<std::string> result;
    const auto found = object_.find(field);
    if (found == object_.end()) return result;
    const bool valid =
        found->is_array() && std::all_of(found->begin(), found->end(),
                                         [](const Json& value) { return value.is_string(); });
    if (!valid) return fault(field, "must be a list of texts");
    for (const Json& value : *found) result.push_back(trimmed(value.get<std::string>()));
    return result;
  }
  absl::StatusOr<bool> truth(const char* field) const {
    const auto found = object_.find(field);
    if (found != object_.end() && found->is_boolean()) return found->get<bool>();
    return fault(field, "must be true or false");
  }
  absl::Status fault(const char* field, const char* what) const {
    return absl::InvalidArgumentError(absl::StrCat(where_, ": ", field, ": ", what));
  }

 private:
  const Json& object_;
  std::string where_;
};

absl::StatusOr<Question> reasoned_question(const Line& line, const std::string& question) {
  const auto answer = line.text("answer");
  if (!answer.ok()) return answer.status();
  const size_t mark = answer->rfind("####");
  if (mark == std::string::npos)
    return line.fault("answer", "must end with \"#### \" and a result");
  const auto reasoning = lines_of(std::string_view(*answer).substr(0, mark));
  return Question{question, steps(reasoning, trimmed(std::string_view(*answer).substr(mark + 4)))};
}

absl::StatusOr<Question> yes_or_no_question(const Line& line, const std::string& question) {
  const auto facts = line.texts("facts");
  if (!facts.ok()) return facts.status();
  const auto answer = line.truth("answer");
  if (!answer.ok()) return answer.status();
  return Question{question + " Answer yes or no.", steps(*facts, *answer ? "yes" : "no")};
}

absl::StatusOr<Question> choice_question(const Line& line, const std::string& question) {
  const auto choices = line.texts("options");
  if (!choices.ok()) return choices.status();
  const auto rationale = line.text("rationale");
  if (!rationale.ok()) return rationale.status();
  const auto correct = line.text("correct");
  if (!correct.ok()) return correct.status();
  std::string prompt = question;
  for (const std::string& choice : *choices) absl::StrAppend(&prompt, "\n", choice);
  return Question{prompt, steps(lines_of(*rationale), trimmed(*correct))};
}

}  // namespace

std::optional<QuestionTask> question_task_named(std::string_view name) {
  if (name == "gsm8k") return QuestionTask::kGsm8k;
  if (name == "asdiv-aug") return QuestionTask::kAsdivAug;
  if (name == "strategyqa") return QuestionTask::kStrategyQa;
  if (name == "aqua") return QuestionTask::kAqua;
  return std::nullopt;
}

absl::StatusOr<std::vector<Question>> parse_questions(QuestionTask task, std::string_view content,
                                                      const std::string& source) {
  std::vector<Question> questions;
  int64_t number = 0;
  for (size_t begin = 0; begin < content.size();) {
    const size_t end = std::min(content.find('\n', begin), content.size());
    const std::string text = trimmed(content.substr(begin, end - begin));
    begin = end + 1;
    const std::string where = absl::StrCat(source, ":", ++number);
    if (text.empty()) continue;
    const auto object = parse_json_object(text, where);
    if (!object.ok()) return object.status();
    const Line line(*object, where);
    auto problem = line.text("question");
    if (!problem.ok()) return problem.status();
    const std::string prompt = kInstruction + trimmed(*problem);
    auto question = task == QuestionTask::kStrategyQa ? yes_or_no_question(line, prompt)
                    : task == QuestionTask::kAqua     ? choice_question(line, prompt)
                                                      : reasoned_question(line, prompt);
    if (!question.ok()) return question.status();
    questions.push_back(*std::move(question));
  }
  return questions;
}

absl::StatusOr<training::TrainingText> question_text(const Question& question,
                                                     const Tokenizer& tokenizer,
                                                     std::optional<ChatFormat> format,
                                                     std::optional<int32_t> end,
                                                     int32_t most_tokens) {
  training::TrainingText text;
  if (format) {
    const ChatMessage message{ChatRole::kUser, question.prompt};
    auto prompt = encode_chat(tokenizer, *format, std::span(&message, 1));
    if (!prompt.ok()) return prompt.status();
    if (!prompt->end_tokens.empty()) end = prompt->end_tokens.front();
    text.tokens = std::move(prompt->tokens);
  } else {
    auto prompt = tokenizer.encode(question.prompt + "\n\n", {});
    if (!prompt.ok()) return prompt.status();
    text.tokens = *std::move(prompt);
  }
  const size_t answer_begin = text.tokens.size();
  auto answer = tokenizer.encode(question.answer, {.add_special_tokens = false});
  if (!answer.ok()) return answer.status();
  text.tokens.insert(text.tokens.end(), answer->begin(), answer->end());
  if (end) text.tokens.push_back(*end);
  text.targets.assign(text.tokens.size(), training::kNoTarget);
  for (size_t t = std::max<size_t>(answer_begin, 1); t < text.tokens.size(); ++t) {
    text.targets[t - 1] = text.tokens[t];
  }
  const auto size = std::min(text.tokens.size(), static_cast<size_t>(most_tokens));
  text.tokens.resize(size);
  text.targets.resize(size);
  text.targets.back() = training::kNoTarget;
  return text;
}

}  // namespace kascade::train
