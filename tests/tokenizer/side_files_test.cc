// Tests the files beside a tokenizer.json: add_bos_token and add_eos_token of Hugging Face's Llama
// tokenizers, fields that are left by accident, and damaged files.
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "engine/tokenizer/tokenizer.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/tokenizer_files.h"

namespace kascade {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::Json;

// a, b and space are 0 to 2; <s> is 3, </s> is 4.
Json tokenizer_json() {
  Json json = testing::small_json("ab ", {});
  json["added_tokens"] = {testing::added_token(3, "<s>"), testing::added_token(4, "</s>")};
  return json;
}

class SideFiles : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto name = ::testing::UnitTest::GetInstance()->current_test_info()->name();
    folder_ = std::filesystem::path(::testing::TempDir()) / ("side-files-" + std::string(name));
    std::filesystem::create_directories(folder_);
    write("tokenizer.json", tokenizer_json().dump());
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  void write(const char* name, const std::string& text) const {
    std::ofstream(folder_ / name, std::ios::binary) << text;
  }
  std::vector<int32_t> encoded(const Json& config) const {
    write("tokenizer_config.json", config.dump());
    const auto tokenizer = open_tokenizer(folder_);
    EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
    if (!tokenizer.ok()) return {};
    EXPECT_EQ((*tokenizer)->prefix_tokens().size() + 2 + (*tokenizer)->suffix_tokens().size(),
              (*tokenizer)->encode("ab", {})->size());
    return *(*tokenizer)->encode("ab", {});
  }
  std::string fault() const {
    const auto tokenizer = open_tokenizer(folder_);
    return tokenizer.ok() ? "accepted" : std::string(tokenizer.status().message());
  }

  std::filesystem::path folder_;
};

TEST_F(SideFiles, LlamaTokenizersAddWhatTheirConfigSays) {
  for (const char* name : {"LlamaTokenizer", "LlamaTokenizerFast"}) {
    const auto config = [&](Json more) {
      more["tokenizer_class"] = name;
      return more;
    };
    EXPECT_THAT(encoded(config(Json::object())), ElementsAre(3, 0, 1));
    EXPECT_THAT(encoded(config({{"add_bos_token", true}})), ElementsAre(3, 0, 1));
    EXPECT_THAT(encoded(config({{"add_bos_token", nullptr}})), ElementsAre(3, 0, 1));
    EXPECT_THAT(encoded(config({{"add_bos_token", false}})), ElementsAre(0, 1));
    EXPECT_THAT(encoded(config({{"add_eos_token", true}})), ElementsAre(3, 0, 1, 4));
    EXPECT_THAT(encoded(config({{"add_bos_token", false}, {"add_eos_token", true}})),
                ElementsAre(0, 1, 4));
    // Which tokens these are.
    EXPECT_THAT(encoded(config({{"bos_token", "</s>"}})), ElementsAre(4, 0, 1));
    EXPECT_THAT(encoded(config({{"bos_token", {{"content", "</s>"}, {"lstrip", false}}}})),
                ElementsAre(4, 0, 1));
    EXPECT_THAT(encoded(config({{"bos_token", "b"}})), ElementsAre(1, 0, 1));
  }
}

TEST_F(SideFiles, TheConfigReplacesThePostProcessor) {
  Json json = tokenizer_json();
  json["post_processor"] = testing::template_with_prefix("<s>", 3);
  write("tokenizer.json", json.dump());
  EXPECT_THAT(encoded({{"tokenizer_class", "LlamaTokenizer"}, {"add_bos_token", false}}),
              ElementsAre(0, 1));
  // Other classes ignore the fields.
  for (const char* name : {"PreTrainedTokenizerFast", "GPT2TokenizerFast"}) {
    EXPECT_THAT(encoded({{"tokenizer_class", name}, {"add_bos_token", false}}),
                ElementsAre(3, 0, 1));
  }
  EXPECT_THAT(encoded({{"add_bos_token", false}, {"add_eos_token", true}}), ElementsAre(3, 0, 1));
}

TEST_F(SideFiles, OlderFoldersNameTheTokensInTheMap) {
  const Json llama = {{"tokenizer_class", "LlamaTokenizer"}};
  write("special_tokens_map.json", R"({"bos_token": {"content": "</s>"}})");
  EXPECT_THAT(encoded(llama), ElementsAre(4, 0, 1));
  write("special_tokens_map.json", R"({"bos_token": "a"})");
  EXPECT_THAT(encoded(llama), ElementsAre(0, 0, 1));
}

TEST_F(SideFiles, DamagedFilesAreNamed) {
  for (const char* file : {"tokenizer_config.json", "special_tokens_map.json"}) {
    for (const char* text : {"", "{", "[]", "null", "\"x\"", "{\"a\": 1e999}", "\xff", "<html>"}) {
      write(file, text);
      EXPECT_THAT(fault(), HasSubstr(file)) << text;
    }
    std::filesystem::remove(folder_ / file);
  }
  write("special_tokens_map.json", "{\"bos_token\": 1e999}");
  EXPECT_THAT(fault(), AllOf(HasSubstr("a number beyond any double"), HasSubstr("bos_token")));
}

TEST_F(SideFiles, WrongTypesAreNamed) {
  const std::pair<Json, const char*> cases[] = {
      {{{"add_bos_token", "yes"}}, "add_bos_token"},
      {{{"add_eos_token", 1}}, "add_eos_token"},
      {{{"bos_token", 1}}, "bos_token"},
      {{{"bos_token", {{"text", "<s>"}}}}, "bos_token"},
      {{{"bos_token", "<begin>"}}, "the tokenizer has no token \"<begin>\""},
      {{{"add_eos_token", true}, {"eos_token", "<end>"}}, "no token \"<end>\""},
      {{{"tokenizer_class", 1}}, "tokenizer_class"}};
  for (const auto& [fields, names] : cases) {
    Json config = {{"tokenizer_class", "LlamaTokenizer"}};
    config.update(fields);
    write("tokenizer_config.json", config.dump());
    EXPECT_THAT(fault(), AllOf(HasSubstr("tokenizer_config.json"), HasSubstr(names)));
  }
}

TEST_F(SideFiles, TruncationAndPaddingAreIgnored) {
  const Json truncations[] = {
      nullptr,
      {{"direction", "Right"}, {"max_length", 1}, {"strategy", "LongestFirst"}, {"stride", 0}},
      Json::object()};
  const Json paddings[] = {
      nullptr,
      {{"strategy", {{"Fixed", 16}}}, {"direction", "Left"}, {"pad_id", 2}, {"pad_token", " "}},
      {{"strategy", "BatchLongest"}, {"pad_to_multiple_of", 8}}};
  for (const Json& truncation : truncations) {
    for (const Json& padding : paddings) {
      Json json = tokenizer_json();
      json["truncation"] = truncation;
      json["padding"] = padding;
      write("tokenizer.json", json.dump());
      EXPECT_THAT(encoded(Json::object()), ElementsAre(0, 1));
    }
  }
}

TEST_F(SideFiles, NumbersInATokenizerFileDoNotWrap) {
  const std::pair<const char*, const char*> cases[] = {
      {"4294967296", "4294967296"},
      {"18446744073709551616", "1.8446744073709552e+19"},
      {"-1", "-1"},
      {"3.5", "3.5"},
      {"1e999", "a number beyond any double"}};
  for (const auto& [number, shown] : cases) {
    std::string text = tokenizer_json().dump();
    const std::string id = "\"id\":3";
    text.replace(text.find(id), id.size(), std::string("\"id\":") + number);
    write("tokenizer.json", text);
    EXPECT_THAT(fault(), AllOf(HasSubstr("tokenizer.json"), HasSubstr("id"), HasSubstr(shown)));
  }
}

}  // namespace
}  // namespace kascade
