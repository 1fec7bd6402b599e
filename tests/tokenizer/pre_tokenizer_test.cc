// Tests the steps before merging: the named pre-tokenizers, the other steps that a tokenizer.json
// may have, and normalization forms. What is expected comes from other implementations
// (tests/golden/tokenizer/make_expectations.py).
#include "engine/tokenizer/pre_tokenizer.h"

#include <string>
#include <string_view>
#include <vector>

#include "engine/tokenizer/named_pre_tokenizers.h"
#include "engine/tokenizer/normalizer.h"
#include "engine/tokenizer/unicode_form.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/shared_data.h"
#include "tests/support/source_folder.h"

namespace kascade::bpe {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

const Json& expectations() {
  static const Json kExpectations = Json::parse(
      testing::read_file(source_folder() / "tests" / "golden" / "tokenizer" / "expectations.json"));
  return kExpectations;
}

// The lengths of the pieces of `text` in bytes.
std::vector<size_t> pieces_of(const PreTokenizer& pre_tokenizer, const std::string& text) {
  std::vector<size_t> lengths;
  const absl::Status status = pre_tokenizer.split(text, true, [&](std::string_view piece) {
    lengths.push_back(piece.size());
    return absl::OkStatus();
  });
  EXPECT_TRUE(status.ok()) << status;
  return lengths;
}

void expect_pieces(const std::string& name, const Json& json, const Json& expected) {
  const auto pre_tokenizer = PreTokenizer::parse(&json);
  ASSERT_TRUE(pre_tokenizer.ok()) << name << ": " << pre_tokenizer.status();
  const auto texts = expectations()["texts"].get<std::vector<std::string>>();
  ASSERT_EQ(texts.size(), expected.size());
  ASSERT_GT(texts.size(), 90u);
  for (size_t i = 0; i < texts.size(); ++i) {
    EXPECT_EQ(pieces_of(*pre_tokenizer, texts[i]), expected[i].get<std::vector<size_t>>())
        << name << ": " << Json(texts[i]).dump();
  }
}

TEST(PreTokenizer, NamedOnesSplitAsTheFilesThatTheyStandFor) {
  for (const auto& [name, expected] : expectations()["named"].items()) {
    const auto named = named_pre_tokenizer(name);
    ASSERT_TRUE(named.ok()) << named.status();
    expect_pieces(name, named->pre_tokenizer, expected);
  }
}

TEST(PreTokenizer, OtherStepsSplitAsTheLibrary) {
  for (const auto& [name, step] : expectations()["other"].items()) {
    expect_pieces(name, step["pre_tokenizer"], step["pieces"]);
  }
}

TEST(PreTokenizer, NamesThatMeanTheSame) {
  const std::vector<std::vector<const char*>> groups = {{"llama-bpe", "llama3", "llama-v3"},
                                                        {"smollm", "starcoder", "refact"},
                                                        {"qwen2", "deepseek-r1-qwen"}};
  for (const auto& group : groups) {
    for (const char* name : group) {
      EXPECT_EQ(named_pre_tokenizer(name)->pre_tokenizer,
                named_pre_tokenizer(group[0])->pre_tokenizer);
      EXPECT_EQ(named_pre_tokenizer(name)->normalizer, named_pre_tokenizer(group[0])->normalizer);
    }
  }
  EXPECT_EQ(named_pre_tokenizer("qwen2")->normalizer, Json({{"type", "NFC"}}));
  EXPECT_EQ(named_pre_tokenizer("tekken")->normalizer, Json());
  for (const char* name : {"qwen35", "falcon", "", "Qwen2"}) {
    const auto named = named_pre_tokenizer(name);
    EXPECT_EQ(named.status().code(), absl::StatusCode::kUnimplemented);
    EXPECT_THAT(std::string(named.status().message()),
                AllOf(HasSubstr("pre_tokenizer: found " + Json(name).dump()),
                      HasSubstr("llama-bpe"), HasSubstr("qwen2"), HasSubstr("deepseek-v3")));
  }
}

TEST(Normalizer, BringsTextsIntoTheForm) {
  const auto texts = expectations()["texts"].get<std::vector<std::string>>();
  for (const auto& [name, expected] : expectations()["forms"].items()) {
    const Json json = {{"type", name}};
    const auto normalizer = Normalizer::parse(&json);
    ASSERT_TRUE(normalizer.ok()) << normalizer.status();
    EXPECT_FALSE(normalizer->changes_nothing());
    size_t changed = 0;
    for (size_t i = 0; i < texts.size(); ++i) {
      const auto result = normalizer->apply(texts[i]);
      ASSERT_TRUE(result.ok()) << result.status();
      EXPECT_EQ(*result, expected[i].get<std::string>()) << name << ": " << Json(texts[i]).dump();
      changed += *result != texts[i];
    }
    EXPECT_GT(changed, 10u) << name;
  }
}

TEST(Normalizer, FormsAtTheBordersOfAsciiText) {
  EXPECT_EQ(*to_unicode_form("", UnicodeForm::kNfc), "");
  EXPECT_EQ(*to_unicode_form("abc", UnicodeForm::kNfkd), "abc");
  EXPECT_EQ(*to_unicode_form("xe\u0301", UnicodeForm::kNfc), "x\u00e9");
  EXPECT_EQ(*to_unicode_form("\u0301e", UnicodeForm::kNfc), "\u0301e");
  EXPECT_EQ(*to_unicode_form("\u00e9", UnicodeForm::kNfd), "e\u0301");
  EXPECT_EQ(*to_unicode_form(std::string("a\0\u00e9\0", 5), UnicodeForm::kNfc),
            std::string("a\0\u00e9\0", 5));
  EXPECT_FALSE(unicode_form_of("nfc").has_value());
}

// Megabytes without an ASCII character are one stretch.
TEST(Normalizer, LongTexts) {
  std::string text, composed;
  for (int i = 0; i < 300'000; ++i) {
    text += "\u304b\u3099";
    composed += "\u304c";
  }
  EXPECT_TRUE(*to_unicode_form(text, UnicodeForm::kNfc) == composed);
  EXPECT_TRUE(*to_unicode_form(composed, UnicodeForm::kNfd) == text);
}

}  // namespace
}  // namespace kascade::bpe
