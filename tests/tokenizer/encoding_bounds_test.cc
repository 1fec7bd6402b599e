// Tests that a long encoding can be stopped, and that it tells the memory that it takes.
#include <malloc.h>

#include <memory>
#include <string>
#include <vector>

#include "engine/tokenizer/tokenizer.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/shared_data.h"
#include "tests/support/tokenizer_files.h"

namespace kascade {
namespace {

using ::testing::HasSubstr;
using testing::Json;

// Of the allocator: what is in use.
int64_t used_memory() {
  const auto info = mallinfo2();
  return static_cast<int64_t>(info.uordblks + info.hblkhd);
}

class Watch : public EncodingWatch {
 public:
  absl::Status proceed(size_t bytes) override {
    ++questions;
    most_told = std::max(most_told, static_cast<int64_t>(bytes));
    const int64_t used = used_memory() - used_before_;
    // What was told before the memory was taken covers what is taken now.
    most_untold = std::max(most_untold, used - most_told);
    return questions > allowed ? absl::CancelledError("enough") : absl::OkStatus();
  }

  int64_t allowed = std::numeric_limits<int64_t>::max();
  int64_t questions = 0;
  int64_t most_told = 0;
  int64_t most_untold = 0;

 private:
  const int64_t used_before_ = used_memory();
};

absl::StatusOr<std::vector<int32_t>> encode(const Tokenizer& tokenizer, const std::string& text,
                                            const EncodingBounds& bounds) {
  return tokenizer.encode(text, {.add_special_tokens = false, .bounds = bounds});
}

// Texts of 400 kB that cost the most: one word, a token for each byte, one run of spaces, and a
// piece for every second byte.
std::vector<std::string> costly_texts() {
  std::vector<std::string> texts;
  for (const std::string part : {"a", "\U0001f9ff", " ", "a b c ", "\u0344"}) {
    std::string& text = texts.emplace_back();
    while (text.size() < 400'000) text += part;
  }
  return texts;
}

std::vector<std::unique_ptr<Tokenizer>> tokenizers() {
  std::vector<std::unique_ptr<Tokenizer>> out;
  out.push_back(*open_tokenizer(testing::demo_model()));
  Json normalising = testing::json_of(testing::demo_model());
  for (const char* form : {"NFC", "NFKD"}) {
    normalising["normalizer"] = {{"type", form}};
    out.push_back(testing::parse_or_fail(normalising));
  }
  return out;
}

TEST(EncodingBounds, TellTheMemoryBeforeItIsTaken) {
  auto all = tokenizers();
  if (std::filesystem::exists(testing::shared_data() / "tokenizers/llama2")) {
    all.push_back(testing::parse_or_fail(testing::llama2_json()));
  }
  for (const auto& tokenizer : all) {
    for (const std::string& text : costly_texts()) {
      Watch watch;
      const auto tokens = encode(*tokenizer, text, {.watch = &watch});
      ASSERT_TRUE(tokens.ok()) << tokens.status();
      EXPECT_EQ(*tokens, *encode(*tokenizer, text, {}));
      // Of the steps between two questions.
      EXPECT_LT(watch.most_untold, 512 << 10) << text.substr(0, 6);
      EXPECT_GE(watch.most_told, static_cast<int64_t>(tokens->size() * sizeof(int32_t)));
      // As docs/operations.md says, but for texts that a normalizer makes longer.
      const int64_t most = text.starts_with("\u0344") ? 150 : 90;
      EXPECT_LT(watch.most_told, most * static_cast<int64_t>(text.size())) << text.substr(0, 6);
    }
  }
}

TEST(EncodingBounds, AnyQuestionCanEndTheEncoding) {
  for (const auto& tokenizer : tokenizers()) {
    for (const std::string& text : costly_texts()) {
      Watch all;
      ASSERT_TRUE(encode(*tokenizer, text, {.watch = &all}).ok());
      ASSERT_GT(all.questions, 10) << text.substr(0, 6);
      for (const int64_t allowed : {int64_t{0}, all.questions / 2, all.questions - 1}) {
        Watch watch;
        watch.allowed = allowed;
        EXPECT_EQ(encode(*tokenizer, text, {.watch = &watch}).status(),
                  absl::CancelledError("enough"));
        EXPECT_EQ(watch.questions, allowed + 1);  // none after the one that ended it
      }
    }
  }
}

TEST(EncodingBounds, AsManyTokensAsAllowedAreGiven) {
  for (const auto& tokenizer : tokenizers()) {
    for (const std::string& text : costly_texts()) {
      const std::string part = text.substr(0, 12'000);
      const size_t tokens = encode(*tokenizer, part, {})->size();
      EXPECT_TRUE(encode(*tokenizer, part, {.max_tokens = tokens}).ok()) << part.substr(0, 6);
      EXPECT_EQ(encode(*tokenizer, part, {.max_tokens = tokens - 1}).status(),
                absl::OutOfRangeError(absl::StrCat("more than ", tokens - 1, " tokens")));
    }
  }
}

TEST(EncodingBounds, ATextThatCannotFitIsRefusedBeforeItIsEncoded) {
  for (const auto& tokenizer : tokenizers()) {
    for (const std::string& text : costly_texts()) {
      Watch watch;
      EXPECT_TRUE(absl::IsOutOfRange(
          encode(*tokenizer, text, {.max_tokens = 10, .watch = &watch}).status()));
      EXPECT_EQ(watch.questions, 0);
    }
  }
}

// Where a normalizer makes a text shorter, more of its bytes fit into the same tokens.
TEST(EncodingBounds, ShorteningByANormalizerIsAllowedFor) {
  Json json = testing::small_json("ab ", {"\u01d6", "aaaaa"});
  const auto fits = [&](const Json& normalizer, const std::string& text) {
    json["normalizer"] = normalizer;
    const auto tokenizer = testing::parse_or_fail(json);
    const size_t tokens = encode(*tokenizer, text, {})->size();
    return encode(*tokenizer, text, {.max_tokens = tokens}).ok();
  };
  std::string composed, replaced;
  for (int i = 0; i < 100; ++i) composed += "\U0001d42e\u0308\u0304";  // becomes \u01d6
  for (int i = 0; i < 100; ++i) replaced += "bbbbbbbbbb";
  EXPECT_TRUE(fits({{"type", "NFKC"}}, composed));
  EXPECT_TRUE(fits(testing::replace_step("bbbbbbbbbb", "a"), replaced));
  EXPECT_TRUE(fits(testing::replace_step("bbbbbbbbbb", ""), replaced + "a"));
  EXPECT_TRUE(
      fits({{"type", "Replace"}, {"pattern", {{"Regex", "b+"}}}, {"content", "a"}}, replaced));
}

// A character that has no token is dropped, and white space beside some added tokens is too: then
// any text may be few tokens.
TEST(EncodingBounds, WhatIsDroppedIsNotCounted) {
  Json json = testing::small_json("a ", {});
  const auto plain = testing::parse_or_fail(json);
  EXPECT_EQ(encode(*plain, std::string(1000, '!') + "a", {.max_tokens = 1})->size(), 1U);
  Json right = testing::added_token(2, "<r>", /*special=*/false);
  right["rstrip"] = true;
  json["added_tokens"] = Json::array({right});
  const auto strips = testing::parse_or_fail(json);
  EXPECT_EQ(encode(*strips, "<r>" + std::string(1000, ' '), {.max_tokens = 1})->size(), 1U);
}

TEST(EncodingBounds, HoldForPromptsOfSeveralParts) {
  const auto tokenizer = *open_tokenizer(testing::demo_model());
  const std::vector<PromptPart> parts = {{.token = 0}, {.text = "Once upon"}, {.token = 0}};
  const size_t tokens = tokenizer->encode_parts(parts, {})->size();
  EXPECT_TRUE(tokenizer->encode_parts(parts, {.max_tokens = tokens}).ok());
  EXPECT_THAT(
      std::string(tokenizer->encode_parts(parts, {.max_tokens = tokens - 1}).status().message()),
      HasSubstr("more than"));
}

}  // namespace
}  // namespace kascade
