// Tests that a text can be encoded in parts where the tokenizer says so, at every place where it
// may have been cut: with the patterns of common models, normalisation, and added tokens.
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "engine/tokenizer/byte_alphabet.h"
#include "engine/tokenizer/tokenizer.h"
#include "engine/tokenizer/word_end.h"
#include "engine/tokenizer/word_patterns.h"
#include "gtest/gtest.h"
#include "tests/support/source_folder.h"
#include "tests/support/tokenizer_files.h"

namespace kascade::testing {
namespace {

Json digits(bool individual) { return {{"type", "Digits"}, {"individual_digits", individual}}; }

Json split(const char* pattern) {
  return {{"type", "Split"},
          {"pattern", {{"Regex", pattern}}},
          {"behavior", "Isolated"},
          {"invert", false}};
}

// Every byte is a token, and some pairs are merged, within words and across what parts them.
Json byte_level_json(const Json& pre_tokenizers) {
  Json vocab = Json::object();
  Json merges = Json::array();
  for (int byte = 0; byte < 256; ++byte) vocab[bpe::spelling_of(static_cast<uint8_t>(byte))] = byte;
  int id = 256;
  for (const char* pair :
       {"t h", "th e", "Ġ t", "Ġ Ġ", "e Ġ", "s Ċ", "Ċ Ċ", "Ġ Ċ", "n '", "' s", "1 2"}) {
    std::string joined(pair);
    joined.erase(joined.find(' '), 1);
    vocab[joined] = id++;
    merges.push_back(pair);
  }
  Json json = {{"version", "1.0"}, {"normalizer", nullptr}};
  json["model"] = {{"type", "BPE"}, {"vocab", vocab}, {"merges", merges}};
  json["pre_tokenizer"] = {{"type", "Sequence"}, {"pretokenizers", pre_tokenizers}};
  json["decoder"] = byte_level(true);
  return json;
}

std::vector<std::string> texts() {
  const Json file = Json::parse(
      read_file(source_folder() / "tests" / "golden" / "tokenizer" / "expectations.json"));
  auto out = file["texts"].get<std::vector<std::string>>();
  out.insert(out.end(), {"the thin\n\nlines  in 12 345 the\tother's corner\r\n the  end \n",
                         "\u4e2d\u6587 \u4e2d\n\u304b \u3099x \ud55c\uae00 \u0436\u0438 \u0301z",
                         "cafe\u0301 e \u0301a  I'LL  we're 'S s's HTMLPage pageHTML x/ y\n/z"});
  return out;
}

std::vector<int32_t> encoded(const Tokenizer& tokenizer, std::string_view text) {
  const auto ids = tokenizer.encode(text, {.add_special_tokens = false});
  EXPECT_TRUE(ids.ok()) << ids.status();
  return ids.ok() ? *ids : std::vector<int32_t>{};
}

// Returns at how many places a text may be cut.
size_t check_all_cuts(const Tokenizer& tokenizer) {
  size_t cuts = 0;
  for (const std::string& text : texts()) {
    const std::vector<int32_t> whole = encoded(tokenizer, text);
    size_t last = 0;
    for (size_t come = 1; come <= text.size(); ++come) {
      if (come < text.size() && (static_cast<unsigned char>(text[come]) & 0xc0) == 0x80) continue;
      const size_t length = tokenizer.independent_prefix(std::string_view(text).substr(0, come));
      EXPECT_LE(length, come);
      if (length == last) continue;
      last = length;
      ++cuts;
      std::vector<int32_t> parts = encoded(tokenizer, std::string_view(text).substr(0, length));
      const auto rest = encoded(tokenizer, std::string_view(text).substr(length));
      parts.insert(parts.end(), rest.begin(), rest.end());
      EXPECT_EQ(parts, whole) << Json(text).dump() << " cut at " << length;
    }
  }
  return cuts;
}

TEST(IndependentPrefix, PartsHaveTheTokensOfTheWholeText) {
  struct Case {
    const char* name;
    Json pre_tokenizers;
    const char* normalizer = nullptr;
  };
  const Case cases[] = {
      {"GPT-2", Json::array({byte_level(true)})},
      {"SmolLM2", {digits(true), byte_level(true)}},
      {"Llama 3", {split(bpe::kLlama3Pattern), byte_level(false)}},
      {"Qwen", {split(bpe::kQwen2Pattern), byte_level(false)}, "NFC"},
      {"Tekken", {split(bpe::kTekkenPattern), byte_level(false)}},
      {"NFKD", {digits(false), byte_level(true)}, "NFKD"},
  };
  for (const Case& each : cases) {
    SCOPED_TRACE(each.name);
    Json json = byte_level_json(each.pre_tokenizers);
    if (each.normalizer != nullptr) json["normalizer"] = {{"type", each.normalizer}};
    const auto tokenizer = parse_or_fail(json);
    ASSERT_NE(tokenizer, nullptr);
    EXPECT_GT(check_all_cuts(*tokenizer), 20u);
  }
}

TEST(IndependentPrefix, IsNoneWhereAPartCouldDependOnTheOthers) {
  const Json gpt2 = Json::array({byte_level(true)});
  Json prefixed = byte_level(true);
  prefixed["add_prefix_space"] = true;
  Json spaced_token = byte_level_json(gpt2);
  spaced_token["added_tokens"] = Json::array({added_token(300, "<two words>")});
  Json stripping_token = byte_level_json(gpt2);
  stripping_token["added_tokens"] = Json::array({added_token(300, "<x>")});
  stripping_token["added_tokens"][0]["rstrip"] = true;
  Json replacing = byte_level_json(gpt2);
  replacing["normalizer"] = {
      {"type", "Replace"}, {"pattern", {{"String", "e t"}}}, {"content", "x"}};
  const Json unknown = {split("[^ ]+ "), byte_level(true)};
  for (const Json& json :
       {byte_level_json(Json::array({byte_level(false)})), byte_level_json(Json::array({prefixed})),
        byte_level_json(unknown), spaced_token, stripping_token, replacing}) {
    const auto tokenizer = parse_or_fail(json);
    ASSERT_NE(tokenizer, nullptr);
    EXPECT_EQ(tokenizer->independent_prefix("the thin lines in the corner"), 0u);
  }
  const auto plain = parse_or_fail(byte_level_json(gpt2));
  EXPECT_EQ(plain->independent_prefix("the thin lines in the corner"), 21u);
}

TEST(IndependentPrefix, EndsBehindALetterBeforeWhiteSpace) {
  EXPECT_EQ(bpe::last_word_end(""), 0u);
  EXPECT_EQ(bpe::last_word_end(" "), 0u);
  EXPECT_EQ(bpe::last_word_end("word"), 0u);
  EXPECT_EQ(bpe::last_word_end("word "), 4u);
  EXPECT_EQ(bpe::last_word_end("one word.\n\n 12 "), 3u);
  EXPECT_EQ(bpe::last_word_end("\u4e2d\u6587\n"), 6u);
  EXPECT_EQ(bpe::last_word_end("e\u0301 x"), 0u);  // a mark is no letter
}

}  // namespace
}  // namespace kascade::testing
