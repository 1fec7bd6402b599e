// Tests folders with a tokenizer.model: which file is read, the ids that it encodes to, and the
// time that it takes.
#include <ctime>
#include <filesystem>
#include <fstream>
#include <string>

#include "engine/tokenizer/tokenizer.h"
#include "engine/tokenizer/vocabulary_files.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/shared_data.h"
#include "tests/support/tokenizer_files.h"
#include "tests/support/tokenizer_vectors.h"
#include "tests/support/vocabulary_examples.h"

namespace kascade {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr EncodeOptions kPlain{.add_special_tokens = false};

class OpenTokenizer : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto name = ::testing::UnitTest::GetInstance()->current_test_info()->name();
    folder_ = std::filesystem::path(::testing::TempDir()) / ("open-" + std::string(name));
    std::filesystem::create_directories(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  void write(const char* name, const std::string& bytes) const {
    std::ofstream(folder_ / name, std::ios::binary) << bytes;
  }

  // Loading must not take a user's time; the limit leaves room for a busy machine.
  std::unique_ptr<Tokenizer> open() const {
    const std::clock_t begin = std::clock();
    auto tokenizer = open_tokenizer(folder_);
    const double seconds = static_cast<double>(std::clock() - begin) / CLOCKS_PER_SEC;
    EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
    if (!tokenizer.ok()) return nullptr;
    RecordProperty("load_seconds", std::to_string(seconds));
    std::cout << "loaded " << (*tokenizer)->vocab_size() << " ids in " << seconds << " s\n";
#ifdef NDEBUG
    EXPECT_LT(seconds, 3.0);
#endif
    return *std::move(tokenizer);
  }

  std::filesystem::path folder_;
};

TEST_F(OpenTokenizer, Llama3RanksGiveTheVectors) {
  KASCADE_NEEDS_DATA("tokenizers/llama3");
  const auto data = testing::shared_data() / "tokenizers/llama3";
  write("tokenizer.model", testing::read_file(data / "tokenizer_llama3.tiktoken"));
  const auto tokenizer = open();
  ASSERT_TRUE(tokenizer);
  testing::check_vectors(*tokenizer, data / "ggml-vocab-llama-bpe.gguf");
  EXPECT_EQ(tokenizer->vocab_size(), 128256);
  EXPECT_EQ(tokenizer->token_id("<|eot_id|>"), 128009);
  EXPECT_EQ(tokenizer->token_id("<|reserved_special_token_247|>"), 128255);
  EXPECT_THAT(*tokenizer->encode("Hello", {}), ElementsAre(128000, 9906));
  // The merges that Hugging Face's converter lists are all that the ranks give.
  const auto vocabulary = parse_tiktoken(testing::read_file(folder_ / "tokenizer.model"));
  const auto json = testing::Json::parse(*to_tokenizer_json(*vocabulary));
  EXPECT_EQ(json["model"]["merges"].size(),
            testing::merge_lines(data / "llama3.2-vocab.bpe").size());
}

TEST_F(OpenTokenizer, Llama2PiecesGiveTheVectors) {
  KASCADE_NEEDS_DATA("tokenizers/llama2");
  const auto data = testing::shared_data() / "tokenizers/llama2";
  write("tokenizer.model", testing::read_file(data / "tokenizer.model"));
  const auto tokenizer = open();
  ASSERT_TRUE(tokenizer);
  testing::check_vectors(*tokenizer, data / "ggml-vocab-llama-spm.gguf");
  EXPECT_EQ(tokenizer->vocab_size(), 32000);
  EXPECT_THAT(tokenizer->prefix_tokens(), ElementsAre(1));
  EXPECT_TRUE(tokenizer->strips_leading_space());
  EXPECT_EQ(tokenizer->token_bytes(13), "\n");
  EXPECT_THAT(*tokenizer->encode("</s>", {.parse_special_tokens = true}), ElementsAre(1, 2));
}

// The same vocabulary as llama2.c has it: texts with spaces, and line feeds around <s> and </s>.
TEST_F(OpenTokenizer, Llama2cPiecesGiveTheVectors) {
  KASCADE_NEEDS_DATA("tokenizers/llama2");
  const auto data = testing::shared_data() / "tokenizers/llama2";
  SentencePieceVocabulary vocabulary = testing::sentencepiece_start(true);
  const auto pieces = testing::read_pieces(data / "tokenizer.bin");
  for (size_t id = vocabulary.pieces.size(); id < pieces.size(); ++id) {
    vocabulary.pieces.push_back(
        {testing::with_spaces_spelled(pieces[id].text), pieces[id].score, PieceType::kNormal});
  }
  const auto tokenizer = parse_tokenizer_json(*to_tokenizer_json(vocabulary));
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  testing::check_vectors(**tokenizer, data / "ggml-vocab-llama-spm.gguf");
}

TEST_F(OpenTokenizer, Stories260K) {
  KASCADE_NEEDS_DATA("models/stories260K");
  write("tokenizer.model",
        testing::read_file(testing::shared_data() / "models/stories260K/tok512.model"));
  const auto tokenizer = open();
  ASSERT_TRUE(tokenizer);
  EXPECT_EQ(tokenizer->vocab_size(), 512);
  const auto ids = tokenizer->encode("Once upon a time, ", {});
  ASSERT_TRUE(ids.ok());
  EXPECT_EQ(ids->front(), 1);
  EXPECT_EQ(*tokenizer->decode(*ids, true), "Once upon a time,");
}

TEST_F(OpenTokenizer, JsonWins) {
  write("tokenizer.model", testing::sentencepiece_file(testing::sentencepiece_start(true)));
  EXPECT_EQ(*find_tokenizer_file(folder_), folder_ / "tokenizer.model");
  EXPECT_EQ(open()->vocab_size(), 259);
  write("tokenizer.json", testing::small_json("abc", {}).dump());
  EXPECT_EQ(*find_tokenizer_file(folder_), folder_ / "tokenizer.json");
  EXPECT_EQ(open()->vocab_size(), 3);
}

TEST_F(OpenTokenizer, ErrorsNameTheFile) {
  const auto missing = open_tokenizer(folder_);
  EXPECT_EQ(missing.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(missing.status().message()),
              HasSubstr("has neither tokenizer.json nor tokenizer.model"));
  write("tokenizer.model", "AA== 0\nAA== 1\n");
  const auto ranks = open_tokenizer(folder_);
  EXPECT_EQ(ranks.status().code(), absl::StatusCode::kUnimplemented);
  EXPECT_THAT(std::string(ranks.status().message()),
              HasSubstr("tokenizer.model: found 2 ranks, supported: 128000"));
  write("tokenizer.model", "\x0a\xff");
  const auto pieces = open_tokenizer(folder_);
  EXPECT_EQ(pieces.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(pieces.status().message()), HasSubstr("tokenizer.model: byte 2"));
  write("tokenizer.model", "");
  EXPECT_EQ(open_tokenizer(folder_).status().code(), absl::StatusCode::kUnimplemented);
  write("tokenizer.json", "{");
  EXPECT_EQ(open_tokenizer(folder_).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(OpenTokenizer, TextIsPlainUnlessItMayBeSpecial) {
  SentencePieceVocabulary vocabulary = testing::sentencepiece_start(true);
  vocabulary.pieces.push_back({"\u2581", 0, PieceType::kNormal});
  write("tokenizer.model", testing::sentencepiece_file(vocabulary));
  const auto tokenizer = open();
  ASSERT_TRUE(tokenizer);
  for (const int32_t id : {0, 1, 2}) {
    const std::string name(tokenizer->token_text(id));
    EXPECT_TRUE(tokenizer->is_special(id));
    const auto ids = tokenizer->encode(name, kPlain);
    EXPECT_EQ(*tokenizer->decode(*ids, /*skip_special=*/true), name);
  }
}

}  // namespace
}  // namespace kascade
