// Tests how each chat format writes a conversation. The expected texts are what the published
// templates give, without tools, for the same messages.
#include <set>
#include <string>
#include <vector>

#include "engine/tokenizer/byte_alphabet.h"
#include "engine/tokenizer/chat.h"
#include "engine/tokenizer/chat_format.h"
#include "engine/tokenizer/chat_template_digests.h"
#include "engine/tokenizer/vocabulary_files.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace kascade {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr ChatRole kSystem = ChatRole::kSystem;
constexpr ChatRole kUser = ChatRole::kUser;
constexpr ChatRole kAssistant = ChatRole::kAssistant;

#define DEEPSEEK_BOS "<\uff5cbegin\u2581of\u2581sentence\uff5c>"
#define DEEPSEEK_EOS "<\uff5cend\u2581of\u2581sentence\uff5c>"
#define DEEPSEEK_USER "<\uff5cUser\uff5c>"
#define DEEPSEEK_ASSISTANT "<\uff5cAssistant\uff5c>"

// One token per byte, then the tokens of the format, which are of type `type`.
std::unique_ptr<Tokenizer> tokenizer_for(const ChatFormatText& format,
                                         PieceType type = PieceType::kControl) {
  ByteLevelVocabulary vocabulary{.pre_tokenizer = "gpt-2"};
  for (int byte = 0; byte < 256; ++byte) {
    vocabulary.tokens.push_back(
        {std::string(bpe::spelling_of(static_cast<uint8_t>(byte))), PieceType::kNormal});
  }
  for (const std::string_view token : format.tokens) {
    vocabulary.tokens.push_back({std::string(token), type});
  }
  const auto json = to_tokenizer_json(vocabulary);
  EXPECT_TRUE(json.ok()) << json.status();
  auto tokenizer = parse_tokenizer_json(*json);
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return *std::move(tokenizer);
}

std::string written(ChatFormat format, const std::vector<ChatMessage>& messages) {
  const auto tokenizer = tokenizer_for(text_of(format));
  const auto prompt = encode_chat(*tokenizer, format, messages);
  if (!prompt.ok()) return std::string(prompt.status().message());
  return *tokenizer->decode(prompt->tokens, /*skip_special=*/false);
}

struct Example {
  ChatFormat format;
  const char* question;  // " Hi\n"
  const char* dialogue;  // system " Sys.\n", user "Hi ", assistant " Yo\n", user "B"
};

const std::vector<Example>& examples() {
  static const std::vector<Example> kExamples = {
      {ChatFormat::kLlama3Dated,
       "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: "
       "December 2023\nToday Date: 26 Jul 2024\n\n<|eot_id|><|start_header_id|>user"
       "<|end_header_id|>\n\nHi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
       "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: "
       "December 2023\nToday Date: 26 Jul 2024\n\nSys.<|eot_id|><|start_header_id|>user"
       "<|end_header_id|>\n\nHi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nYo"
       "<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nB<|eot_id|><|start_header_id|>"
       "assistant<|end_header_id|>\n\n"},
      {ChatFormat::kChatMl, "<|im_start|>user\n Hi\n<|im_end|>\n<|im_start|>assistant\n",
       "<|im_start|>system\n Sys.\n<|im_end|>\n<|im_start|>user\nHi <|im_end|>\n<|im_start|>"
       "assistant\n Yo\n<|im_end|>\n<|im_start|>user\nB<|im_end|>\n<|im_start|>assistant\n"},
      {ChatFormat::kQwen2,
       "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n Hi\n"
       "<|im_end|>\n<|im_start|>assistant\n",
       "<|im_start|>system\n Sys.\n<|im_end|>\n<|im_start|>user\nHi <|im_end|>\n<|im_start|>"
       "assistant\n Yo\n<|im_end|>\n<|im_start|>user\nB<|im_end|>\n<|im_start|>assistant\n"},
      {ChatFormat::kQwen25,
       "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant."
       "<|im_end|>\n<|im_start|>user\n Hi\n<|im_end|>\n<|im_start|>assistant\n",
       "<|im_start|>system\n Sys.\n<|im_end|>\n<|im_start|>user\nHi <|im_end|>\n<|im_start|>"
       "assistant\n Yo\n<|im_end|>\n<|im_start|>user\nB<|im_end|>\n<|im_start|>assistant\n"},
      {ChatFormat::kQwen3, "<|im_start|>user\n Hi\n<|im_end|>\n<|im_start|>assistant\n",
       "<|im_start|>system\n Sys.\n<|im_end|>\n<|im_start|>user\nHi <|im_end|>\n<|im_start|>"
       "assistant\n Yo\n<|im_end|>\n<|im_start|>user\nB<|im_end|>\n<|im_start|>assistant\n"},
      {ChatFormat::kSmolLm2,
       "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
       "<|im_end|>\n<|im_start|>user\n Hi\n<|im_end|>\n<|im_start|>assistant\n",
       "<|im_start|>system\n Sys.\n<|im_end|>\n<|im_start|>user\nHi <|im_end|>\n<|im_start|>"
       "assistant\n Yo\n<|im_end|>\n<|im_start|>user\nB<|im_end|>\n<|im_start|>assistant\n"},
      {ChatFormat::kYi, "<|im_start|>user\n Hi\n<|im_end|>\n<|im_start|>assistant\n",
       " Sys.\n<|im_start|>user\nHi <|im_end|>\n<|im_start|>assistant\n Yo\n<|im_end|>\n"
       "<|im_start|>user\nB<|im_end|>\n<|im_start|>assistant\n"},
      {ChatFormat::kZephyr, "<|user|>\n Hi\n</s>\n<|assistant|>\n",
       "<|system|>\n Sys.\n</s>\n<|user|>\nHi </s>\n<|assistant|>\n Yo\n</s>\n<|user|>\nB</s>\n"
       "<|assistant|>\n"},
      {ChatFormat::kPhi3, "<|user|>\n Hi\n<|end|>\n<|assistant|>\n",
       "<|system|>\n Sys.\n<|end|>\n<|user|>\nHi <|end|>\n<|assistant|>\n Yo\n<|end|>\n<|user|>\n"
       "B<|end|>\n<|assistant|>\n"},
      {ChatFormat::kGranite,
       "<|start_of_role|>user<|end_of_role|> Hi\n<|end_of_text|>\n<|start_of_role|>assistant"
       "<|end_of_role|>",
       "<|start_of_role|>system<|end_of_role|> Sys.\n<|end_of_text|>\n<|start_of_role|>user"
       "<|end_of_role|>Hi <|end_of_text|>\n<|start_of_role|>assistant<|end_of_role|> Yo\n"
       "<|end_of_text|>\n<|start_of_role|>user<|end_of_role|>B<|end_of_text|>\n<|start_of_role|>"
       "assistant<|end_of_role|>"},
      {ChatFormat::kMistralV0, "<s>[INST]  Hi\n [/INST]",
       "messages[0].role: found system, expected user: user and assistant take turns"},
      {ChatFormat::kMistralV1, "<s> [INST]  Hi\n [/INST]",
       "<s> [INST]  Sys.\n\n\nHi  [/INST]  Yo\n</s> [INST] B [/INST]"},
      {ChatFormat::kMistralV3, "<s>[INST]  Hi\n[/INST]",
       "<s>[INST] Hi [/INST] Yo</s>[INST]  Sys.\n\n\nB[/INST]"},
      {ChatFormat::kMistralTekken, "<s>[INST] Hi\n[/INST]",
       "<s>[INST]Hi [/INST] Yo\n</s>[INST] Sys.\n\n\nB[/INST]"},
      {ChatFormat::kVicuna,
       "<s>A chat between a curious user and an artificial intelligence assistant. The assistant "
       "gives helpful, detailed, and polite answers to the user's questions. USER:  Hi\n "
       "ASSISTANT:",
       "<s> Sys.\n USER: Hi  ASSISTANT:  Yo\n</s>USER: B ASSISTANT:"},
      {ChatFormat::kDeepSeekLlm, DEEPSEEK_BOS "User:  Hi\n\n\nAssistant:",
       DEEPSEEK_BOS " Sys.\n\n\nUser: Hi \n\nAssistant:  Yo\n" DEEPSEEK_EOS
                    "User: B\n\nAssistant:"},
      {ChatFormat::kDeepSeekV3, DEEPSEEK_BOS DEEPSEEK_USER " Hi\n" DEEPSEEK_ASSISTANT,
       DEEPSEEK_BOS " Sys.\n" DEEPSEEK_USER "Hi " DEEPSEEK_ASSISTANT
                    " Yo\n" DEEPSEEK_EOS DEEPSEEK_USER "B" DEEPSEEK_ASSISTANT},
      {ChatFormat::kDeepSeekR1, DEEPSEEK_BOS DEEPSEEK_USER " Hi\n" DEEPSEEK_ASSISTANT "<think>\n",
       DEEPSEEK_BOS " Sys.\n" DEEPSEEK_USER "Hi " DEEPSEEK_ASSISTANT
                    " Yo\n" DEEPSEEK_EOS DEEPSEEK_USER "B" DEEPSEEK_ASSISTANT "<think>\n"},
      {ChatFormat::kDeepSeekR1V0, DEEPSEEK_BOS DEEPSEEK_USER " Hi\n" DEEPSEEK_ASSISTANT,
       DEEPSEEK_BOS " Sys.\n" DEEPSEEK_USER "Hi " DEEPSEEK_ASSISTANT
                    " Yo\n" DEEPSEEK_EOS DEEPSEEK_USER "B" DEEPSEEK_ASSISTANT},
  };
  return kExamples;
}

TEST(ChatFormats, WriteWhatTheirTemplatesWrite) {
  for (const auto& [format, question, dialogue] : examples()) {
    EXPECT_EQ(written(format, {{kUser, " Hi\n"}}), question) << name_of(format);
    EXPECT_EQ(written(format,
                      {{kSystem, " Sys.\n"}, {kUser, "Hi "}, {kAssistant, " Yo\n"}, {kUser, "B"}}),
              dialogue)
        << name_of(format);
  }
}

TEST(ChatFormats, EndAtTheTokenOfTheFormat) {
  for (const Example& example : examples()) {
    const ChatFormatText& text = text_of(example.format);
    const auto tokenizer = tokenizer_for(text);
    const auto prompt =
        encode_chat(*tokenizer, example.format, std::vector<ChatMessage>{{kUser, "Hi"}});
    ASSERT_TRUE(prompt.ok()) << prompt.status();
    EXPECT_THAT(prompt->end_tokens, ElementsAre(*tokenizer->token_id(text.end)));
  }
}

TEST(ChatFormats, RepeatAnswersWithoutTheReasoning) {
  const std::vector<ChatMessage> messages = {
      {kUser, "A"}, {kAssistant, "<think>\nhm</think>\n</think>\n\n Yo"}, {kUser, "B"}};
  EXPECT_THAT(written(ChatFormat::kQwen3, messages), HasSubstr("assistant\n Yo<|im_end|>"));
  EXPECT_THAT(written(ChatFormat::kDeepSeekR1, messages),
              HasSubstr(DEEPSEEK_ASSISTANT "\n\n Yo" DEEPSEEK_EOS));
  EXPECT_THAT(written(ChatFormat::kDeepSeekV3, messages), HasSubstr("<think>\nhm</think>"));
  EXPECT_THAT(written(ChatFormat::kChatMl, messages), HasSubstr("<think>\nhm</think>"));
}

TEST(ChatFormats, RefusalsNameTheMessage) {
  struct Case {
    ChatFormat format;
    std::vector<ChatMessage> messages;
    const char* error;
  };
  const std::vector<ChatMessage> late = {{kUser, "a"}, {kSystem, "b"}, {kUser, "c"}};
  const std::vector<ChatMessage> twice = {{kUser, "a"}, {kUser, "b"}};
  const std::vector<Case> cases = {
      {ChatFormat::kLlama3Dated, late,
       "messages[1].role: found system, expected user or assistant"},
      {ChatFormat::kDeepSeekR1, late, "messages[1].role: found system"},
      {ChatFormat::kMistralV3, late, "messages[1].role: found system, expected assistant"},
      {ChatFormat::kMistralTekken, twice, "messages[1].role: found user, expected assistant"},
      {ChatFormat::kVicuna, twice, "messages[1].role: found user"},
      {ChatFormat::kYi, twice, "messages[1].role: found user"},
      {ChatFormat::kPhi3, {{kSystem, ""}, {kUser, "a"}}, "messages[0].content: is empty"},
      // Marks that are text.
      {ChatFormat::kZephyr, {{kUser, "a<|system|>"}}, "messages[0].content: has <|system|>"},
      {ChatFormat::kMistralV1, {{kUser, "[INST]"}}, "messages[0].content: has [INST]"},
      {ChatFormat::kVicuna, {{kUser, "a ASSISTANT: b"}}, "messages[0].content: has ASSISTANT:"},
      {ChatFormat::kQwen3, {{kUser, "<tool_response>"}}, "has <tool_response>, a mark of the chat"},
      {ChatFormat::kDeepSeekLlm,
       {{kSystem, "x\n\nUser: y"}, {kUser, "a"}},
       "messages[0].content: has \\n\\nUser:, a mark of the chat format deepseek-llm"}};
  for (const Case& c : cases) EXPECT_THAT(written(c.format, c.messages), HasSubstr(c.error));
  EXPECT_THAT(written(ChatFormat::kZephyr, {{kUser, "an </s> and [INST]"}}),
              HasSubstr("an </s> and [INST]"));
  EXPECT_THAT(written(ChatFormat::kMistralV3, {{kUser, "[/INST]"}}), HasSubstr("[/INST][/INST]"));
}

// In some tokenizers the tokens of a format are not special: a content could become one.
TEST(ChatFormats, TokensThatAreNotSpecialAreRefusedInContents) {
  const auto tokenizer = tokenizer_for(text_of(ChatFormat::kDeepSeekR1), PieceType::kUserDefined);
  const auto encoded = [&](const char* content) {
    return encode_chat(*tokenizer, ChatFormat::kDeepSeekR1,
                       std::vector<ChatMessage>{{kUser, content}});
  };
  ASSERT_TRUE(encoded("Hi").ok()) << encoded("Hi").status();
  EXPECT_EQ(encoded("Hi")->tokens[1], *tokenizer->token_id(DEEPSEEK_USER));
  EXPECT_THAT(std::string(encoded("Hi" DEEPSEEK_ASSISTANT).status().message()),
              HasSubstr("messages[0].content: has " DEEPSEEK_ASSISTANT));
}

TEST(ChatFormats, NeedTheirTokens) {
  const auto tokenizer = tokenizer_for(text_of(ChatFormat::kChatMl));
  const auto prompt =
      encode_chat(*tokenizer, ChatFormat::kMistralV3, std::vector<ChatMessage>{{kUser, "a"}});
  EXPECT_EQ(prompt.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(prompt.status().message()),
              HasSubstr("the tokenizer has no token <s>, which the chat format mistral-v3 needs"));
}

TEST(ChatFormats, NamesAndDigestsAreUnique) {
  std::set<std::string_view> names, digests;
  for (const auto& [digest, format] : kChatTemplateDigests) {
    EXPECT_EQ(digest.size(), 64u);
    EXPECT_EQ(digest.find_first_not_of("0123456789abcdef"), std::string_view::npos) << digest;
    EXPECT_TRUE(digests.insert(digest).second) << digest;
    names.insert(name_of(format));
  }
  for (const Example& example : examples()) {
    // No model is published with a template of Vicuna's.
    EXPECT_EQ(names.contains(name_of(example.format)), example.format != ChatFormat::kVicuna);
    EXPECT_THAT(chat_format_names(), HasSubstr(std::string(name_of(example.format))));
  }
}

}  // namespace
}  // namespace kascade
