// Tests encoding and loading. The expected ids are test vectors of llama.cpp; cases that these do
// not cover use small hand-made vocabularies.
#include "engine/tokenizer/tokenizer.h"

#include <algorithm>
#include <ctime>
#include <filesystem>
#include <iostream>
#include <memory>
#include <random>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/sanitizers.h"
#include "tests/support/shared_data.h"
#include "tests/support/tokenizer_files.h"
#include "tests/support/tokenizer_vectors.h"

namespace kascade {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::Json;

constexpr EncodeOptions kPlain{.add_special_tokens = false};
constexpr EncodeOptions kSpecialInText{.add_special_tokens = false, .parse_special_tokens = true};

TEST(TokenizerVectors, Gpt2) {
  KASCADE_NEEDS_DATA("tokenizers/gpt2");
  const auto tokenizer = testing::parse_or_fail(testing::gpt2_json());
  testing::check_vectors(*tokenizer,
                         testing::shared_data() / "tokenizers/gpt2/ggml-vocab-gpt-2.gguf");
}

TEST(TokenizerVectors, Llama3) {
  KASCADE_NEEDS_DATA("tokenizers/llama3");
  const auto tokenizer = testing::parse_or_fail(testing::llama3_json());
  testing::check_vectors(*tokenizer,
                         testing::shared_data() / "tokenizers/llama3/ggml-vocab-llama-bpe.gguf");
  EXPECT_EQ(tokenizer->vocab_size(), 128256);
  EXPECT_THAT(tokenizer->prefix_tokens(), ElementsAre(128000));
  EXPECT_THAT(*tokenizer->encode("Hello", {}), ElementsAre(128000, 9906));
}

TEST(TokenizerVectors, Llama2) {
  KASCADE_NEEDS_DATA("tokenizers/llama2");
  const auto tokenizer = testing::parse_or_fail(testing::llama2_json());
  testing::check_vectors(*tokenizer,
                         testing::shared_data() / "tokenizers/llama2/ggml-vocab-llama-spm.gguf");
  EXPECT_TRUE(tokenizer->strips_leading_space());
  EXPECT_EQ(tokenizer->token_bytes(13), "\n");
  EXPECT_EQ(tokenizer->token_text(13), "<0x0A>");
  // "</" and "s>" are tokens too, so a plain merge would forge the end token.
  const auto ids = *tokenizer->encode("</s>", kPlain);
  EXPECT_EQ(std::count(ids.begin(), ids.end(), 2), 0);
  EXPECT_THAT(*tokenizer->encode("</s>", kSpecialInText), ElementsAre(2));
}

TEST(TokenizerFiles, DemoModel) {
  const auto tokenizer = open_tokenizer(testing::demo_model());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ((*tokenizer)->vocab_size(), 4096);
  EXPECT_TRUE((*tokenizer)->is_special(0));
  EXPECT_FALSE((*tokenizer)->is_special(1));
  EXPECT_EQ((*tokenizer)->token_bytes(0), "");
  EXPECT_EQ((*tokenizer)->token_id("<|endoftext|>"), 0);
  EXPECT_EQ((*tokenizer)->token_id("no such token"), std::nullopt);
  EXPECT_THAT((*tokenizer)->prefix_tokens(), ElementsAre(0));
  EXPECT_THAT(*(*tokenizer)->encode("", kPlain), IsEmpty());
  EXPECT_THAT(*(*tokenizer)->encode("", {}), ElementsAre(0));
}

TEST(TokenizerFiles, SmolLm2AndTinyStories) {
  KASCADE_NEEDS_DATA("tokenizers/smollm2");
  KASCADE_NEEDS_DATA("models/tinystories-656k");
  const auto smol = open_tokenizer(testing::shared_data() / "tokenizers/smollm2");
  ASSERT_TRUE(smol.ok()) << smol.status();
  EXPECT_EQ((*smol)->vocab_size(), 49152);
  // Digits stay single.
  EXPECT_EQ((*smol)->encode("2024", kPlain)->size(), 4u);
  const auto tiny = open_tokenizer(testing::shared_data() / "models/tinystories-656k");
  ASSERT_TRUE(tiny.ok()) << tiny.status();
  EXPECT_EQ((*tiny)->vocab_size(), 2048);
  EXPECT_THAT((*tiny)->prefix_tokens(), ElementsAre(1));
  // Unknown characters side by side are one token.
  const auto ids = *(*tiny)->encode("\u00e9\u00e8\u00ea", kPlain);
  EXPECT_EQ(std::count(ids.begin(), ids.end(), 0), 1);
}

TEST(TokenizerFiles, MissingFileIsNotFound) {
  const auto tokenizer = open_tokenizer("/nonexistent");
  EXPECT_EQ(tokenizer.status().code(), absl::StatusCode::kNotFound);
}

TEST(TokenizerMerges, LowestRankThenLeftmost) {
  Json json = testing::small_json("abc", {"ab", "bc", "aa"});
  json["model"]["merges"] = {"b c", Json::array({"a", "b"}), "a a"};
  const auto tokenizer = testing::parse_or_fail(json);
  EXPECT_THAT(*tokenizer->encode("abc", kPlain), ElementsAre(0, 4));
  EXPECT_THAT(*tokenizer->encode("aba", kPlain), ElementsAre(3, 0));
  EXPECT_THAT(*tokenizer->encode("aaa", kPlain), ElementsAre(5, 0));
  EXPECT_THAT(*tokenizer->encode("a!b", kPlain), ElementsAre(3));  // unknown, no unk_token: dropped
}

// Scans for the best pair again after every merge: slow, and obviously right.
std::vector<std::string> merged_naively(const std::string& text, const Json& merges) {
  std::vector<std::string> symbols;
  for (const char c : text) symbols.emplace_back(1, c);
  for (;;) {
    size_t best = merges.size(), position = 0;
    for (size_t i = 0; i + 1 < symbols.size(); ++i) {
      const Json pair = Json::array({symbols[i], symbols[i + 1]});
      const size_t rank = std::find(merges.begin(), merges.end(), pair) - merges.begin();
      if (rank < best) best = rank, position = i;
    }
    if (best == merges.size()) return symbols;
    symbols[position] += symbols[position + 1];
    symbols.erase(symbols.begin() + static_cast<std::ptrdiff_t>(position) + 1);
  }
}

TEST(TokenizerMerges, EqualTheNaiveLoop) {
  std::mt19937 random(3);
  for (int vocabulary = 0; vocabulary < 30; ++vocabulary) {
    Json json = testing::small_json("abcd", {});
    std::vector<std::string> tokens = {"a", "b", "c", "d"};
    for (int i = 0; i < 12; ++i) {
      const std::string left = tokens[random() % tokens.size()];
      const std::string right = tokens[random() % tokens.size()];
      if (left.size() + right.size() > 6 || json["model"]["vocab"].contains(left + right)) continue;
      json["model"]["vocab"][left + right] = tokens.size();
      json["model"]["merges"].push_back({left, right});
      tokens.push_back(left + right);
    }
    const auto tokenizer = testing::parse_or_fail(json);
    for (int i = 0; i < 50; ++i) {
      std::string text;
      for (size_t length = random() % 40; length > 0; --length) text += "abcd"[random() % 4];
      std::vector<std::string> encoded;
      const std::vector<int32_t> ids = *tokenizer->encode(text, kPlain);
      for (const int32_t id : ids) {
        encoded.emplace_back(tokenizer->token_text(id));
      }
      EXPECT_EQ(encoded, merged_naively(text, json["model"]["merges"])) << text;
    }
  }
}

TEST(TokenizerThreads, ShareOneTokenizer) {
  const auto tokenizer = *open_tokenizer(testing::demo_model());
  const std::string text = "Once upon a time, in 1887, there were \u00bbtwo\u00ab threads.";
  const auto expected = *tokenizer->encode(text, {});
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int round = 0; round < 50; ++round) {
        EXPECT_EQ(*tokenizer->encode(text, {}), expected);
        EXPECT_EQ(*tokenizer->decode(expected, true), text);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST(TokenizerAddedTokens, LongestMatchAndSpaces) {
  Json json = testing::small_json("ab ", {});
  json["added_tokens"] = {testing::added_token(10, "<x>"), testing::added_token(11, "<x>b"),
                          testing::added_token(12, "aa", /*special=*/false)};
  json["added_tokens"][0]["lstrip"] = true;
  json["added_tokens"][0]["rstrip"] = true;
  const auto tokenizer = testing::parse_or_fail(json);
  EXPECT_EQ(tokenizer->vocab_size(), 13);
  EXPECT_THAT(*tokenizer->encode("b  <x> b", kSpecialInText), ElementsAre(1, 10, 1));
  EXPECT_THAT(*tokenizer->encode("a <x>b", kSpecialInText), ElementsAre(0, 2, 11));
  EXPECT_THAT(*tokenizer->encode("baab<x>", kPlain), ElementsAre(1, 12, 1));
  // Ids 3 to 9 are holes.
  EXPECT_EQ(tokenizer->token_bytes(5), "");
  // So are ids behind the last one, which a model with a padded table has.
  EXPECT_EQ(tokenizer->token_bytes(13), "");
  EXPECT_EQ(tokenizer->token_text(1 << 20), "");
  const std::vector<int32_t> holes = {0, 5, 13, 1 << 20, 1};
  EXPECT_EQ(*tokenizer->decode(holes, true), "ab");
  EXPECT_EQ(*tokenizer->decode(holes, false), "ab");
  const std::vector<int32_t> negative = {0, -5};
  EXPECT_THAT(std::string(tokenizer->decode(negative, true).status().message()),
              HasSubstr("-5 at position 1"));
  const std::vector<int32_t> ids = {10, 12, 0};
  EXPECT_EQ(*tokenizer->decode(ids, true), "aaa");
  EXPECT_EQ(*tokenizer->decode(ids, false), "<x>aaa");
}

TEST(TokenizerAddedTokens, NormalizedContentIsFoundInNormalisedText) {
  Json json = testing::small_json("ab_", {});
  json["normalizer"] = {{"type", "Prepend"}, {"prepend", "_"}};
  json["added_tokens"] = testing::Json::array({testing::added_token(3, "<s>")});
  json["added_tokens"][0]["normalized"] = true;
  const auto tokenizer = testing::parse_or_fail(json);
  EXPECT_THAT(*tokenizer->encode("<s>a", kSpecialInText), ElementsAre(3, 0));
  EXPECT_THAT(*tokenizer->encode("a_<s>", kSpecialInText), ElementsAre(2, 0, 3));
}

TEST(TokenizerMetaspace, PrependSchemes) {
  Json json = testing::small_json("ab_", {"_a", "_b", "b_"});
  json["model"]["merges"] = {"_ a", "_ b", "b _"};
  json["added_tokens"] = testing::Json::array({testing::added_token(6, "<s>")});
  Json& metaspace = json["pre_tokenizer"];
  metaspace = {{"type", "Metaspace"}, {"replacement", "_"}, {"prepend_scheme", "always"}};
  const auto ids = [&](const char* text) {
    return *testing::parse_or_fail(json)->encode(text, kSpecialInText);
  };
  EXPECT_THAT(ids("a b"), ElementsAre(3, 4));
  EXPECT_THAT(ids(" a"), ElementsAre(3));
  EXPECT_THAT(ids("a<s>b"), ElementsAre(3, 6, 4));
  EXPECT_THAT(ids("a  b"), ElementsAre(3, 2, 4));
  metaspace["prepend_scheme"] = "first";
  EXPECT_THAT(ids("a<s>b"), ElementsAre(3, 6, 1));
  EXPECT_THAT(ids("<s>b"), ElementsAre(6, 1));
  metaspace["prepend_scheme"] = "never";
  EXPECT_THAT(ids("a b"), ElementsAre(0, 4));
  EXPECT_THAT(ids("bb "), ElementsAre(1, 1, 2));
  metaspace["split"] = false;
  EXPECT_THAT(ids("bb "), ElementsAre(1, 5));
  metaspace = {{"type", "Metaspace"}, {"replacement", "_"}, {"add_prefix_space", false}};
  EXPECT_THAT(ids("a b"), ElementsAre(0, 4));
  metaspace["add_prefix_space"] = true;
  EXPECT_THAT(ids("a b"), ElementsAre(3, 4));
}

TEST(TokenizerText, BrokenUtf8IsRefusedByOffset) {
  const auto tokenizer = *open_tokenizer(testing::demo_model());
  for (const std::string bad : {"ab\xff", "ab\xc3", "ab\xc0\x80", "ab\xed\xa0\x80"}) {
    const auto ids = tokenizer->encode(bad, kPlain);
    EXPECT_EQ(ids.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(ids.status().message()), HasSubstr("byte 2"));
  }
}

TEST(TokenizerText, SpecialStringsAreTextUnlessAskedFor) {
  const auto tokenizer = *open_tokenizer(testing::demo_model());
  EXPECT_THAT(*tokenizer->encode("<|endoftext|>", kSpecialInText), ElementsAre(0));
  const auto ids = *tokenizer->encode("<|endoftext|>", kPlain);
  EXPECT_EQ(std::count(ids.begin(), ids.end(), 0), 0);
  EXPECT_EQ(*tokenizer->decode(ids, true), "<|endoftext|>");
}

TEST(TokenizerPattern, ExponentialBacktrackingIsAnError) {
  Json json = testing::json_of(testing::demo_model());
  json["pre_tokenizer"] = {{"type", "Sequence"}};
  json["pre_tokenizer"]["pretokenizers"] = {
      {{"type", "Split"}, {"pattern", {{"Regex", "(a|aa)+[bc]"}}}, {"behavior", "Isolated"}},
      testing::byte_level(true)};
  const auto tokenizer = testing::parse_or_fail(json);
  EXPECT_THAT(std::string(tokenizer->encode(std::string(60, 'a'), kPlain).status().message()),
              HasSubstr("pattern failed"));
  EXPECT_TRUE(tokenizer->encode("aab aab", kPlain).ok());
}

// Unicode 6.3 took U+180E out of the spaces, PCRE2's \s keeps it.
TEST(TokenizerPattern, SpacesAreThoseOfUnicode) {
  Json json = testing::small_json("ab", {"\u180e", " ", "a\u180e", "a "});
  json["model"]["merges"] = {"a \u180e", Json::array({"a", " "})};
  json["pre_tokenizer"] = {
      {"type", "Split"}, {"pattern", {{"Regex", "\\s"}}}, {"behavior", "Isolated"}};
  const auto tokenizer = testing::parse_or_fail(json);
  EXPECT_THAT(*tokenizer->encode("a\u180eb", kPlain), ElementsAre(4, 1));
  EXPECT_THAT(*tokenizer->encode("a b", kPlain), ElementsAre(0, 3, 1));
}

// Time of the processor, not of the wall: other programs may run beside this one.
template <typename Work>
double seconds_of(const Work& work) {
  const std::clock_t begin = std::clock();
  work();
  return static_cast<double>(std::clock() - begin) / CLOCKS_PER_SEC;
}

double seconds_to_encode(const Tokenizer& tokenizer, const std::string& text) {
  return seconds_of([&] { EXPECT_TRUE(tokenizer.encode(text, kPlain).ok()); });
}

// A quadratic loop would need hours for these.
TEST(TokenizerSpeed, OneMegabyteWithoutABreak) {
  const auto bytes = static_cast<size_t>(testing::repetitions(1'000'000));
  KASCADE_NEEDS_DATA("tokenizers/llama3");
  KASCADE_NEEDS_DATA("tokenizers/llama2");
  KASCADE_NEEDS_DATA("text/gutenberg/moby-dick.2701-0.txt");
  std::string letters;
  for (uint32_t i = 0; letters.size() < bytes; ++i) letters += 'a' + i * 2654435761u % 26;
  const std::string book =
      testing::read_file(testing::shared_data() / "text/gutenberg/moby-dick.2701-0.txt");
  for (const Json& json : {testing::llama3_json(), testing::llama2_json()}) {
    const std::string file = json.dump();
    std::unique_ptr<Tokenizer> tokenizer;
    const double load = seconds_of([&] { tokenizer = *parse_tokenizer_json(file); });
    std::cout << "vocabulary of " << tokenizer->vocab_size() << ": load " << load << " s, letters "
              << seconds_to_encode(*tokenizer, letters) << " s, one letter "
              << seconds_to_encode(*tokenizer, std::string(bytes, 'a')) << " s, spaces "
              << seconds_to_encode(*tokenizer, std::string(bytes, ' ') + "x") << " s, book "
              << book.size() / 1e6 / seconds_to_encode(*tokenizer, book) << " MB/s\n";
  }
}

}  // namespace
}  // namespace kascade
