// Tests prompts of tokens and texts: they must be encoded as one text in which the tokens are
// spelled out, except that no text becomes a special token.
#include <string>
#include <variant>
#include <vector>

#include "engine/tokenizer/tokenizer.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/tokenizer_files.h"

namespace kascade {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::Json;

constexpr EncodeOptions kWithSpecial{.add_special_tokens = false, .parse_special_tokens = true};

// a, b, _, space, line feed are 0 to 4; ab is 5, <u> 6, which consumes the white space behind it,
// <l> 7, that before it, <p> 8, which is not special.
Json parts_json() {
  Json json = testing::small_json("ab_ \n", {"ab"});
  json["model"]["merges"] = {"a b"};
  Json right = testing::added_token(6, "<u>");
  right["rstrip"] = true;
  Json left = testing::added_token(7, "<l>");
  left["lstrip"] = true;
  json["added_tokens"] = {right, left, testing::added_token(8, "<p>", /*special=*/false)};
  return json;
}

std::vector<PromptPart> parts(const std::vector<std::variant<int32_t, std::string>>& from) {
  std::vector<PromptPart> result;
  for (const auto& part : from) {
    if (const auto* id = std::get_if<int32_t>(&part)) {
      result.push_back({.token = *id});
    } else {
      result.push_back({.text = std::get<std::string>(part)});
    }
  }
  return result;
}

TEST(PromptParts, AreEncodedAsOneText) {
  const auto tokenizer = testing::parse_or_fail(parts_json());
  for (const auto& from :
       std::vector<std::vector<std::variant<int32_t, std::string>>>{{},
                                                                    {"ab a"},
                                                                    {6, "\n ab \n", 6, " "},
                                                                    {6, " \n", 7, "b"},
                                                                    {"a \n", 7, " b"},
                                                                    {"a ", 6, " b ", 7, " a"},
                                                                    {"a<p>b", 8, "b"},
                                                                    {6, 7, 6},
                                                                    {6, "\u3000a"}}) {
    std::string spelled;
    for (const PromptPart& part : parts(from)) {
      spelled += part.token ? std::string(tokenizer->token_text(*part.token)) : part.text;
    }
    const auto ids = tokenizer->encode_parts(parts(from), {});
    ASSERT_TRUE(ids.ok()) << ids.status();
    EXPECT_EQ(*ids, *tokenizer->encode(spelled, kWithSpecial)) << spelled;
  }
  EXPECT_THAT(*tokenizer->encode_parts(parts({6, "\n ab \n", 6, " "}), {}),
              ElementsAre(6, 5, 3, 4, 6));
}

TEST(PromptParts, TextsForgeNothing) {
  const auto tokenizer = testing::parse_or_fail(parts_json());
  // The characters of the spelling that have no token are dropped.
  EXPECT_THAT(*tokenizer->encode_parts(parts({"a<u>b<l>"}), {}), ElementsAre(5));
  EXPECT_THAT(*tokenizer->encode_parts(parts({"a<p>b"}), {}), ElementsAre(0, 8, 1));
}

TEST(PromptParts, NeighbouringTextsAreEncodedEachByItself) {
  const auto tokenizer = testing::parse_or_fail(parts_json());
  EXPECT_THAT(*tokenizer->encode_parts(parts({"a", "b"}), {}), ElementsAre(0, 1));
}

// Only the first text is at the start of a text.
TEST(PromptParts, PrefixAtTheStartOnly) {
  Json json = parts_json();
  json["pre_tokenizer"] = {
      {"type", "Metaspace"}, {"replacement", "_"}, {"prepend_scheme", "first"}, {"split", false}};
  auto tokenizer = testing::parse_or_fail(json);
  EXPECT_THAT(*tokenizer->encode_parts(parts({"a", 8, "a"}), {}), ElementsAre(2, 0, 8, 0));
  EXPECT_THAT(*tokenizer->encode_parts(parts({8, "a"}), {}), ElementsAre(8, 0));
  json["pre_tokenizer"]["prepend_scheme"] = "always";
  tokenizer = testing::parse_or_fail(json);
  EXPECT_THAT(*tokenizer->encode_parts(parts({8, "a"}), {}), ElementsAre(8, 2, 0));
}

TEST(PromptParts, BadTextIsRefused) {
  const auto tokenizer = testing::parse_or_fail(parts_json());
  for (const auto& bad : {parts({6, "a\xff", 7}), parts({"\xe3\x80"})}) {
    const auto ids = tokenizer->encode_parts(bad, {});
    EXPECT_EQ(ids.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(ids.status().message()), HasSubstr("is not UTF-8 at byte"));
  }
}

}  // namespace
}  // namespace kascade
