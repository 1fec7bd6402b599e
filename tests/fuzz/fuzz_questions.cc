// A file of questions to train on; the first byte chooses the task.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "engine/base/check.h"
#include "tools/train/question_texts.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace kascade::train;
  if (size == 0) return 0;
  constexpr QuestionTask kTasks[] = {QuestionTask::kGsm8k, QuestionTask::kAsdivAug,
                                     QuestionTask::kStrategyQa, QuestionTask::kAqua};
  const std::string_view content(reinterpret_cast<const char*>(data) + 1, size - 1);
  const auto questions = parse_questions(kTasks[data[0] % 4], content, "file");
  if (!questions.ok()) return 0;
  for (const Question& question : *questions) {
    KASCADE_CHECK(question.answer.find("\\boxed{") != std::string::npos);
  }
  return 0;
}
