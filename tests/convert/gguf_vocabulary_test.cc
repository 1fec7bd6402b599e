// Tests the tokenizers of GGUF files: the pre-tokenizers that they name, ids without a token, and
// the published SmolLM2 Instruct, whose tokenizer and chat must be those of its Hugging Face
// original.
#include "tools/convert/gguf_vocabulary.h"

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "engine/model/file.h"
#include "engine/tokenizer/chat.h"
#include "engine/tokenizer/tokenizer.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/support/gguf_writer.h"
#include "tests/support/shared_data.h"
#include "tests/support/tiny_model.h"
#include "tests/support/tokenizer_files.h"

namespace kascade::convert {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using testing::GgufWriter;
using ::testing::HasSubstr;

// a, b, ab, 1, é as one and as two characters, <e>, and an id without a token.
GgufWriter byte_level(const char* pre) {
  return GgufWriter()
      .set("tokenizer.ggml.model", "gpt2")
      .set("tokenizer.ggml.pre", pre)
      .set("tokenizer.ggml.tokens",
           std::vector<std::string>{"a", "b", "ab", "1", "\u00c3", "\u00a9", "e", "<e>", "[PAD8]"})
      .set("tokenizer.ggml.token_type", std::vector<int32_t>{1, 1, 1, 1, 1, 1, 1, 3, 5})
      .set("tokenizer.ggml.merges", std::vector<std::string>{"a b"})
      .set("tokenizer.ggml.bos_token_id", 7u);
}

absl::StatusOr<std::string> json_of(const GgufWriter& writer) {
  const std::string bytes = writer.file();
  const auto file = GgufFile::parse(std::as_bytes(std::span(bytes)), "x.gguf");
  if (!file.ok()) return file.status();
  return gguf_tokenizer_json(*file);
}

std::unique_ptr<Tokenizer> tokenizer_of(const GgufWriter& writer) {
  const auto json = json_of(writer);
  EXPECT_TRUE(json.ok()) << json.status();
  if (!json.ok()) return nullptr;
  return testing::parse_or_fail(testing::Json::parse(*json));
}

TEST(GgufVocabulary, NamedPreTokenizers) {
  for (const char* pre :
       {"llama-bpe", "llama3", "llama-v3", "gpt-2", "smollm", "starcoder", "refact", "qwen2",
        "deepseek-r1-qwen", "tekken", "deepseek-llm", "deepseek-coder", "deepseek-v3", "default"}) {
    const auto tokenizer = tokenizer_of(byte_level(pre));
    ASSERT_TRUE(tokenizer) << pre;
    const bool adds_bos = std::string(pre).starts_with("llama") || std::string(pre) == "tekken";
    EXPECT_EQ(tokenizer->prefix_tokens().size(), adds_bos ? 1u : 0u) << pre;
    EXPECT_THAT(*tokenizer->encode("ab1", {.add_special_tokens = false}), ElementsAre(2, 3)) << pre;
  }
  // Only Qwen's composes characters.
  const std::string decomposed = "e\u0301";
  constexpr EncodeOptions kPlain{.add_special_tokens = false};
  EXPECT_THAT(*tokenizer_of(byte_level("qwen2"))->encode(decomposed, kPlain), ElementsAre(4, 5));
  EXPECT_THAT(*tokenizer_of(byte_level("gpt-2"))->encode(decomposed, kPlain), ElementsAre(6));
  for (const char* pre : {"qwen35", "falcon", "smaug-bpe"}) {
    EXPECT_THAT(json_of(byte_level(pre)).status().ToString(),
                AllOf(HasSubstr("UNIMPLEMENTED: x.gguf: tokenizer.ggml"), HasSubstr(pre),
                      HasSubstr("llama-bpe"), HasSubstr("deepseek-r1-qwen")));
  }
}

TEST(GgufVocabulary, PiecesThatAreTokens) {
  for (const char* pre : {"tekken", "llama-bpe", "qwen2"}) {
    const auto json = testing::Json::parse(*json_of(byte_level(pre)));
    EXPECT_EQ(json["model"]["ignore_merges"], std::string(pre) != "qwen2") << pre;
  }
}

TEST(GgufVocabulary, PaddingHasNoToken) {
  const auto tokenizer = tokenizer_of(byte_level("qwen2"));
  ASSERT_TRUE(tokenizer);
  EXPECT_EQ(tokenizer->vocab_size(), 8);
  EXPECT_EQ(tokenizer->token_text(8), "");
  EXPECT_EQ(*tokenizer->decode(std::vector<int32_t>{2, 8, 3}, /*skip_special=*/false), "ab1");
  EXPECT_EQ(tokenizer->token_id("[PAD8]"), std::nullopt);
}

TEST(GgufVocabulary, TurnTokensOfPhi3ConsumeWhiteSpace) {
  GgufWriter writer;
  writer.set("general.architecture", "phi3")
      .set("tokenizer.ggml.model", "llama")
      .set("tokenizer.ggml.tokens",
           std::vector<std::string>{"<unk>", "<s>", "</s>", "\u2581", "a", "<|user|>", "<|end|>"})
      .set("tokenizer.ggml.scores", std::vector<float>{0, 0, 0, -3, -4, 0, 0})
      .set("tokenizer.ggml.token_type", std::vector<int32_t>{2, 3, 3, 1, 1, 3, 3})
      .set("tokenizer.ggml.bos_token_id", 1u);
  const std::vector<PromptPart> parts = {
      {.token = 1}, {.text = " a"}, {.token = 5}, {.text = " \u2003a"}, {.token = 6}};
  EXPECT_THAT(*tokenizer_of(writer)->encode_parts(parts, {}), ElementsAre(1, 3, 3, 4, 5, 3, 4, 6));
  writer.set("general.architecture", "llama");
  EXPECT_THAT(*tokenizer_of(writer)->encode_parts(parts, {}),
              ElementsAre(1, 3, 3, 4, 5, 3, 3, 0, 4, 6));
}

TEST(GgufVocabulary, SmolLm2IsItsOriginal) {
  KASCADE_NEEDS_DATA("models/smollm2-135m-instruct");
  KASCADE_NEEDS_DATA("tokenizers/smollm2");
  KASCADE_NEEDS_DATA("text/wikitext-2/wikitext-2-valid.tokens.txt");
  const auto data = testing::shared_data();
  const auto path = data / "models/smollm2-135m-instruct/SmolLM2-135M-Instruct.Q4_1.gguf";
  auto mapping = MappedFile::open(path);
  ASSERT_TRUE(mapping.ok()) << mapping.status();
  const auto file =
      GgufFile::parse({mapping->data(), static_cast<size_t>(mapping->bytes())}, path.string());
  ASSERT_TRUE(file.ok()) << file.status();
  const auto json = gguf_tokenizer_json(*file);
  ASSERT_TRUE(json.ok()) << json.status();
  const auto converted = testing::parse_or_fail(testing::Json::parse(*json));
  const auto original = testing::parse_or_fail(testing::json_of(data / "tokenizers/smollm2"));
  ASSERT_TRUE(converted && original);
  const std::string text =
      testing::read_file(data / "text/wikitext-2/wikitext-2-valid.tokens.txt").substr(0, 60'000);
  EXPECT_EQ(*converted->encode(text, {}), *original->encode(text, {}));

  const testing::TempDir folder;
  std::ofstream(folder.path() / "tokenizer_config.json") << testing::Json{
      {"chat_template", std::string(*file->find("tokenizer.chat_template")->text())}};
  const auto format = find_chat_format(folder.path(), *converted);
  ASSERT_TRUE(format.ok()) << format.status();
  EXPECT_EQ(name_of(*format), "smollm2");
  const auto prompt =
      encode_chat(*converted, *format,
                  std::vector<ChatMessage>{{.role = ChatRole::kUser, .content = "What is 17+25?"}});
  ASSERT_TRUE(prompt.ok()) << prompt.status();
  // As Hugging Face's library encodes the text that the template gives.
  EXPECT_THAT(prompt->tokens,
              ElementsAre(1, 9690, 198, 2683, 359, 253, 5356, 5646, 11173, 3365, 3511, 308, 34519,
                          28, 7018, 411, 407, 19712, 8182, 2, 198, 1, 4093, 198, 1780, 314, 216, 33,
                          39, 27, 34, 37, 47, 2, 198, 1, 520, 9531, 198));
  EXPECT_THAT(prompt->end_tokens, ElementsAre(2));
}

}  // namespace
}  // namespace kascade::convert
