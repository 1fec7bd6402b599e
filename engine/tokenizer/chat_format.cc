#include "engine/tokenizer/chat_format.h"

#include <array>
#include <string>

#include "engine/base/check.h"

namespace kascade {
namespace {

// The name stands between two tokens, in front of every content.
ChatFormatText llama3() {
  return {.name = "llama3",
          .start = "<|begin_of_text|>",
          .system = {"<|start_header_id|>system<|end_header_id|>\n\n", "<|eot_id|>", true},
          .user = {"<|start_header_id|>user<|end_header_id|>\n\n", "<|eot_id|>", true},
          .assistant = {"<|start_header_id|>assistant<|end_header_id|>\n\n", "<|eot_id|>", true},
          .answer = "<|start_header_id|>assistant<|end_header_id|>\n\n",
          .end = "<|eot_id|>",
          .tokens = {"<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"},
          .bos = "<|begin_of_text|>"};
}

// The date is the one that the template has for callers without a clock: a prompt must not depend
// on the day.
ChatFormatText llama3_1() {
  ChatFormatText text = llama3();
  text.name = "llama3-1";
  text.system.before =
      "<|start_header_id|>system<|end_header_id|>\n\n"
      "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n";
  text.order = MessageOrder::kSystemFirst;
  text.default_system = "";
  return text;
}

// The whole turn of a question is trimmed, with the system message in it.
ChatFormatText llama2() {
  return {.name = "llama2",
          .system = {"<<SYS>>\n", "\n<</SYS>>\n\n"},
          .user = {"<s>[INST] ", " [/INST]", true},
          .assistant = {" ", " </s>", true},
          .end = "</s>",
          .tokens = {"<s>", "</s>"},
          .marks = {"[INST]", "[/INST]", "<<SYS>>", "<</SYS>>"},
          .order = MessageOrder::kTakeTurns,
          .system_place = SystemPlace::kInFirstQuestion,
          .bos = "<s>",
          .eos = "</s>"};
}

ChatFormatText chatml() {
  return {.name = "chatml",
          .system = {"<|im_start|>system\n", "<|im_end|>\n"},
          .user = {"<|im_start|>user\n", "<|im_end|>\n"},
          .assistant = {"<|im_start|>assistant\n", "<|im_end|>\n"},
          .answer = "<|im_start|>assistant\n",
          .end = "<|im_end|>",
          .tokens = {"<|im_start|>", "<|im_end|>"}};
}

ChatFormatText chatml_with_system(std::string_view name, std::string_view default_system) {
  ChatFormatText text = chatml();
  text.name = name;
  text.default_system = default_system;
  return text;
}

// The template takes a question with <tool_response> for the answer of a tool.
ChatFormatText qwen3() {
  ChatFormatText text = chatml();
  text.name = "qwen3";
  text.marks = {"<tool_response>"};
  text.repeated_answers = AnswerPart::kBehindThoughtAndLineEnds;
  return text;
}

// ChatML, except that the system message stands at the start without marks.
ChatFormatText yi() {
  ChatFormatText text = chatml();
  text.name = "yi";
  text.system = {};
  text.order = MessageOrder::kTakeTurns;
  return text;
}

ChatFormatText zephyr() {
  return {.name = "zephyr",
          .system = {"<|system|>\n", "</s>\n"},
          .user = {"<|user|>\n", "</s>\n"},
          .assistant = {"<|assistant|>\n", "</s>\n"},
          .answer = "<|assistant|>\n",
          .end = "</s>",
          .tokens = {"</s>"},
          .marks = {"<|system|>", "<|user|>", "<|assistant|>"},
          .eos = "</s>"};
}

ChatFormatText phi3() {
  return {.name = "phi3",
          .system = {"<|system|>\n", "<|end|>\n"},
          .user = {"<|user|>\n", "<|end|>\n"},
          .assistant = {"<|assistant|>\n", "<|end|>\n"},
          .answer = "<|assistant|>\n",
          .end = "<|end|>",
          .tokens = {"<|system|>", "<|user|>", "<|assistant|>", "<|end|>"},
          .refuses_empty_system = true};
}

ChatFormatText granite() {
  return {.name = "granite",
          .system = {"<|start_of_role|>system<|end_of_role|>", "<|end_of_text|>\n"},
          .user = {"<|start_of_role|>user<|end_of_role|>", "<|end_of_text|>\n"},
          .assistant = {"<|start_of_role|>assistant<|end_of_role|>", "<|end_of_text|>\n"},
          .answer = "<|start_of_role|>assistant<|end_of_role|>",
          .end = "<|end_of_text|>",
          .tokens = {"<|start_of_role|>", "<|end_of_role|>", "<|end_of_text|>"}};
}

// The formats of Mistral differ in spaces, in where the system message stands, and in whether
// [INST] is a token.
ChatFormatText mistral_v1() {
  return {.name = "mistral-v1",
          .start = "<s>",
          .system = {"", "\n\n"},
          .user = {" [INST] ", " [/INST]"},
          .assistant = {" ", "</s>"},
          .end = "</s>",
          .tokens = {"<s>", "</s>"},
          .marks = {"[INST]", "[/INST]"},
          .order = MessageOrder::kTakeTurns,
          .system_place = SystemPlace::kInFirstQuestion,
          .bos = "<s>",
          .eos = "</s>"};
}

// As published first, with the models of 2023.
ChatFormatText mistral_v0() {
  ChatFormatText text = mistral_v1();
  text.name = "mistral-v0";
  text.user = {"[INST] ", " [/INST]"};
  text.assistant = {"", "</s>"};
  text.order = MessageOrder::kTakeTurnsAlone;
  return text;
}

ChatFormatText mistral_v3() {
  ChatFormatText text = mistral_v1();
  text.name = "mistral-v3";
  text.user = {"[INST] ", "[/INST]"};
  text.assistant = {" ", "</s>", true};
  text.tokens = {"<s>", "</s>", "[INST]", "[/INST]"};
  text.marks = {};
  text.system_place = SystemPlace::kInLastQuestion;
  return text;
}

ChatFormatText mistral_tekken() {
  ChatFormatText text = mistral_v3();
  text.name = "mistral-tekken";
  text.user = {"[INST]", "[/INST]"};
  text.assistant = {"", "</s>"};
  return text;
}

ChatFormatText vicuna() {
  return {.name = "vicuna",
          .start = "<s>",
          .system = {"", " "},
          .user = {"USER: ", " "},
          .assistant = {"ASSISTANT: ", "</s>"},
          .answer = "ASSISTANT:",
          .end = "</s>",
          .tokens = {"<s>", "</s>"},
          .marks = {"USER:", "ASSISTANT:"},
          .order = MessageOrder::kTakeTurns,
          .default_system =
              "A chat between a curious user and an artificial intelligence "
              "assistant. The assistant gives helpful, detailed, and polite answers "
              "to the user's questions."};
}

constexpr std::string_view kDeepSeekBos = "<\uff5cbegin\u2581of\u2581sentence\uff5c>";
constexpr std::string_view kDeepSeekEos = "<\uff5cend\u2581of\u2581sentence\uff5c>";

ChatFormatText deepseek_llm() {
  return {.name = "deepseek-llm",
          .start = kDeepSeekBos,
          .system = {"", "\n\n"},
          .user = {"User: ", "\n\n"},
          .assistant = {"Assistant: ", kDeepSeekEos},
          .answer = "Assistant:",
          .end = kDeepSeekEos,
          .tokens = {kDeepSeekBos, kDeepSeekEos},
          .marks = {"\n\nUser:", "\n\nAssistant:"},
          .bos = kDeepSeekBos,
          .eos = kDeepSeekEos};
}

ChatFormatText deepseek_v3() {
  return {.name = "deepseek-v3",
          .start = kDeepSeekBos,
          .user = {"<\uff5cUser\uff5c>", ""},
          .assistant = {"<\uff5cAssistant\uff5c>", kDeepSeekEos},
          .answer = "<\uff5cAssistant\uff5c>",
          .end = kDeepSeekEos,
          .tokens = {kDeepSeekBos, kDeepSeekEos, "<\uff5cUser\uff5c>", "<\uff5cAssistant\uff5c>"},
          .order = MessageOrder::kSystemFirst,
          .bos = kDeepSeekBos};
}

// The answer begins with the model's reasoning.
ChatFormatText deepseek_r1() {
  ChatFormatText text = deepseek_v3();
  text.name = "deepseek-r1";
  text.answer = "<\uff5cAssistant\uff5c><think>\n";
  text.repeated_answers = AnswerPart::kBehindThought;
  return text;
}

// As published first: the model begins its reasoning by itself.
ChatFormatText deepseek_r1_v0() {
  ChatFormatText text = deepseek_r1();
  text.name = "deepseek-r1-v0";
  text.answer = deepseek_v3().answer;
  return text;
}

// In the order of ChatFormat.
const std::vector<ChatFormatText>& all_formats() {
  static const std::vector<ChatFormatText> kFormats = {
      llama3(),
      llama2(),
      llama3_1(),
      chatml(),
      chatml_with_system("qwen2", "You are a helpful assistant."),
      chatml_with_system("qwen2-5",
                         "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."),
      qwen3(),
      chatml_with_system("smollm2",
                         "You are a helpful AI assistant named SmolLM, trained by Hugging Face"),
      yi(),
      zephyr(),
      phi3(),
      granite(),
      mistral_v0(),
      mistral_v1(),
      mistral_v3(),
      mistral_tekken(),
      vicuna(),
      deepseek_llm(),
      deepseek_v3(),
      deepseek_r1(),
      deepseek_r1_v0(),
  };
  return kFormats;
}

}  // namespace

const ChatFormatText& text_of(ChatFormat format) {
  const auto index = static_cast<size_t>(format);
  KASCADE_CHECK(index < all_formats().size());
  return all_formats()[index];
}

std::string_view name_of(ChatFormat format) { return text_of(format).name; }

std::string chat_format_names() {
  std::string names;
  for (const ChatFormatText& text : all_formats()) {
    if (!names.empty()) names += ", ";
    names += text.name;
  }
  return names;
}

}  // namespace kascade
