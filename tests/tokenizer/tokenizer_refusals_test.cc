// Tests unsupported and damaged tokenizer.json files: they must give an error that names the place,
// never a crash.
#include <set>
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

Json demo_json() { return testing::json_of(testing::demo_model()); }

// Where, what is put there, and what the message must name.
struct Mutation {
  const char* pointer;
  Json value;
  const char* named;
};

TEST(TokenizerRefusals, NameTheField) {
  const Json split = {{"type", "Split"}, {"pattern", {{"Regex", "a"}}}, {"behavior", "Isolated"}};
  const auto split_with = [&](const char* regex) {
    Json json = split;
    json["pattern"]["Regex"] = regex;
    return json;
  };
  const std::vector<Mutation> mutations = {
      {"/version", "2.0", "version"},
      {"/surprise", 1, "surprise"},
      {"/normalizer", {{"type", "Lowercase"}}, "normalizer.type: found \"Lowercase\""},
      {"/model/merge_ranks", {0}, "model.merge_ranks: found 1"},
      {"/normalizer",
       {{"type", "Replace"}, {"pattern", {{"Regex", "^*a"}}}, {"content", ""}},
       "normalizer.pattern.Regex: regular expression, byte 1"},
      {"/pre_tokenizer", {{"type", "Whitespace"}}, "pre_tokenizer.type: found \"Whitespace\""},
      {"/pre_tokenizer/add_prefix_space", 3, "pre_tokenizer.add_prefix_space: found 3"},
      {"/pre_tokenizer/surprise", true, "pre_tokenizer.surprise"},
      {"/pre_tokenizer", split_with("(a"), "pre_tokenizer.pattern"},
      {"/pre_tokenizer", split_with("a*"), "empty text"},
      {"/pre_tokenizer", split_with("\\h"), "byte 0: this escape"},
      {"/pre_tokenizer", split_with("a$?"), "byte 2: a quantifier behind an anchor"},
      {"/pre_tokenizer",
       {{"type", "Split"}, {"pattern", {{"Regex", "a"}}}, {"behavior", "MergedWithNext"}},
       "pre_tokenizer.behavior: found \"MergedWithNext\""},
      {"/pre_tokenizer",
       {{"type", "Punctuation"}, {"behavior", "Removed"}},
       "pre_tokenizer.behavior: found \"Removed\""},
      {"/pre_tokenizer", split_with("[a[b]]"), "byte 2: a class inside a class"},
      {"/pre_tokenizer", split_with("a{2}+"), "byte 4: a sign behind"},
      {"/pre_tokenizer", split_with("(?m:a)"), "byte 0: this kind of group"},
      {"/pre_tokenizer", nullptr, "decoder.type: found \"ByteLevel\""},
      {"/decoder", nullptr, "decoder: found null"},
      {"/decoder", {{"type", "WordPiece"}}, "decoder.type: found \"WordPiece\""},
      {"/model/type", "Unigram", "model.type: found \"Unigram\""},
      {"/model/dropout", 0.1, "model.dropout: found 0.1"},
      {"/model/continuing_subword_prefix", "##", "model.continuing_subword_prefix"},
      {"/model/end_of_word_suffix", "</w>", "model.end_of_word_suffix"},
      {"/model/unk_token", "<nope>", "model.unk_token: found \"<nope>\""},
      {"/model/byte_fallback", true, "model.byte_fallback"},
      {"/model/ignore_merges", "yes", "model.ignore_merges"},
      {"/model/surprise", 1, "model.surprise"},
      {"/model/vocab", Json::object(), "model.vocab"},
      {"/model/vocab/zzq", -1, "model.vocab[\"zzq\"]: found -1"},
      {"/model/vocab/zzq", 1 << 30, "model.vocab[\"zzq\"]"},
      {"/model/vocab/zzq", 7, "id 7"},
      {"/model/vocab/zzq", 1.5, "model.vocab[\"zzq\"]: found 1.5"},
      {"/model/merges/5", "a b c", "model.merges[5]"},
      {"/model/merges/5", 7, "model.merges[5]: found 7"},
      {"/model/merges/5", "zzq zzq", "model.merges[5]: found \"zzq\""},
      {"/added_tokens/0/id", 5, "added_tokens[0]"},
      {"/added_tokens/0/single_word", true, "added_tokens[0].single_word"},
      {"/added_tokens/0/content", "", "added_tokens[0].content"},
      {"/added_tokens/0/surprise", 1, "added_tokens[0].surprise"},
      {"/added_tokens/1", {{"id", 0}, {"content", "<|endoftext|>"}}, "added_tokens[1]"},
      {"/added_tokens/1", {{"id", 9}, {"content", "<new>"}}, "id 9"},
      {"/post_processor", {{"type", "BertProcessing"}}, "post_processor.type"},
      {"/post_processor/single/0/SpecialToken/id", "<x>", "post_processor.special_tokens[<x>]"},
      {"/post_processor/single/1/Sequence/id", "B", "post_processor.single[1].Sequence.id"},
      {"/post_processor/single/1",
       {{"SpecialToken", {{"id", "<|endoftext|>"}}}},
       "post_processor.single"},
      {"/post_processor/special_tokens/<|endoftext|>/ids/0", 9999, "ids: found 9999"},
  };
  for (const Mutation& mutation : mutations) {
    Json json = demo_json();
    json[Json::json_pointer(mutation.pointer)] = mutation.value;
    const auto tokenizer = parse_tokenizer_json(json.dump());
    ASSERT_FALSE(tokenizer.ok()) << mutation.pointer << " = " << mutation.value;
    EXPECT_THAT(std::string(tokenizer.status().message()), HasSubstr(mutation.named));
  }
}

TEST(TokenizerRefusals, CharacterDecoderParts) {
  const std::vector<Mutation> mutations = {
      {"/decoder/decoders/3/content", "_", "decoder.decoders[3].content"},
      {"/decoder/decoders/3/start", 2, "decoder.decoders[3].start"},
      {"/decoder/decoders/3/stop", 1, "decoder.decoders[3].stop"},
      {"/decoder/decoders/2", {{"type", "CTC"}}, "decoder.decoders[2].type"},
      {"/decoder/decoders/4", {{"type", "ByteFallback"}}, "decoder.decoders[4].type"},
  };
  Json base = testing::small_json("a", {});
  base["decoder"] = {{"type", "Sequence"}};
  base["decoder"]["decoders"] = {testing::replace_step("_", " "),
                                 {{"type", "ByteFallback"}},
                                 {{"type", "Fuse"}},
                                 {{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}}};
  testing::parse_or_fail(base);
  for (const Mutation& mutation : mutations) {
    Json json = base;
    json[Json::json_pointer(mutation.pointer)] = mutation.value;
    EXPECT_THAT(std::string(parse_tokenizer_json(json.dump()).status().message()),
                HasSubstr(mutation.named));
  }
}

TEST(TokenizerRefusals, NoPartOfAFileCrashes) {
  const std::string text = demo_json().dump();
  for (size_t length = 0; length < text.size(); length += 97) {
    EXPECT_FALSE(parse_tokenizer_json(text.substr(0, length)).ok()) << length;
  }
  for (const char* open : {"[", "{\"a\":", "[{\"model\":"}) {
    std::string deep;
    for (int i = 0; i < 200'000; ++i) deep += open;
    EXPECT_THAT(std::string(parse_tokenizer_json(deep).status().message()), HasSubstr("deeper"));
  }
}

// Every value of the file, one after the other, takes every wrong type: an answer, never a crash.
TEST(TokenizerRefusals, WrongTypesEverywhere) {
  Json base = demo_json();
  // Without most of its vocabulary it is parsed a dozen times as fast.
  std::erase_if(base["model"]["vocab"].get_ref<Json::object_t&>(),
                [](const auto& entry) { return entry.second >= 270; });
  base["model"]["merges"].erase(base["model"]["merges"].begin() + 3, base["model"]["merges"].end());
  const Json flat = base.flatten();
  std::set<std::string> pointers;
  for (const auto& [leaf, value] : flat.items()) {
    if (leaf.starts_with("/model/vocab/") && pointers.contains("/model/vocab/a")) continue;
    for (std::string at = leaf; !at.empty(); at.resize(at.rfind('/'))) pointers.insert(at);
  }
  EXPECT_GT(pointers.size(), 40u);
  for (const std::string& pointer : pointers) {
    for (const Json& value : {Json(), Json(true), Json(-1), Json(1e300), Json("x"), Json::array(),
                              Json({{"x", 1}}), Json::array({Json::array()})}) {
      Json json = base;
      json[Json::json_pointer(pointer)] = value;
      const auto tokenizer = parse_tokenizer_json(json.dump());
      if (!tokenizer.ok()) continue;
      EXPECT_TRUE((*tokenizer)->encode("a text", {}).ok()) << pointer;
    }
  }
  for (const Json& value : {Json(), Json(true), Json(1), Json("x"), Json::array()}) {
    EXPECT_FALSE(parse_tokenizer_json(value.dump()).ok());
  }
}

}  // namespace
}  // namespace kascade
