// Tests vocabularies without a tokenizer.json: the tokenizers made from them must encode as
// SentencePiece and tiktoken do, whose simple implementations are in
// tests/support/vocabulary_examples.h.
#include "engine/tokenizer/vocabulary_files.h"

#include <algorithm>
#include <filesystem>
#include <functional>
#include <limits>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "engine/tokenizer/pre_tokenizer.h"
#include "engine/tokenizer/tokenizer.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/sanitizers.h"
#include "tests/support/shared_data.h"
#include "tests/support/tokenizer_files.h"
#include "tests/support/vocabulary_examples.h"

namespace kascade {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::PlainSentencePiece;
using testing::PlainTiktoken;

constexpr EncodeOptions kPlain{.add_special_tokens = false};

template <typename Vocabulary>
std::unique_ptr<Tokenizer> tokenizer_of(const Vocabulary& vocabulary) {
  const auto json = to_tokenizer_json(vocabulary);
  EXPECT_TRUE(json.ok()) << json.status();
  if (!json.ok()) return nullptr;
  auto tokenizer = parse_tokenizer_json(*json);
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return tokenizer.ok() ? *std::move(tokenizer) : nullptr;
}

// Repeated letters, accents, other scripts, spaces, controls, emoji, special strings.
const std::vector<std::string>& awkward_alphabet() {
  static const std::vector<std::string> kAlphabet = {
      "a",      "a",      "a",          "b",      "l",      "e",      "t",          "h",
      "s",      "E",      "1",          "2",      " ",      " ",      " ",          "\n",
      "\t",     "_",      ".",          "'",      "'s",     "-",      "\r",         "\x01",
      "0",      "<",      ">",          "</",     "s>",     "the",    "ing",        "\u2581",
      "\u00e9", "\u0301", "\u0436",     "\u4e2d", "\u0627", "\u3000", "\U0001F600", "\u200d",
      "<s>",    "<0x0A>", "<|eot_id|>", "\u00a0", "\x7f"};
  return kAlphabet;
}

std::vector<std::string> lines_of(const std::filesystem::path& path, size_t limit) {
  std::vector<std::string> lines;
  std::istringstream in(testing::read_file(path).substr(0, limit));
  for (std::string line; std::getline(in, line);) {
    if (bpe::valid_utf8_length(line) == line.size()) lines.push_back(line);
  }
  return lines;
}

std::vector<std::string> texts_of_shared_data() {
  std::vector<std::string> lines;
  for (const char* name :
       {"gutenberg/les-miserables.135-0.txt", "gsm8k", "wikitext-2/wikitext-2-valid.tokens.txt"}) {
    const auto path = testing::shared_data() / "text" / name;
    if (!std::filesystem::is_regular_file(path)) continue;
    const auto more = lines_of(path, static_cast<size_t>(testing::repetitions(60'000)));
    lines.insert(lines.end(), more.begin(), more.end());
  }
  return lines;
}

// ---- SentencePiece ------------------------------------------------------------------------------

void expect_like_sentencepiece(const SentencePieceVocabulary& vocabulary,
                               const std::vector<std::string>& texts) {
  const auto tokenizer = tokenizer_of(vocabulary);
  ASSERT_TRUE(tokenizer);
  const PlainSentencePiece plain(vocabulary);
  for (const std::string& text : texts) {
    const auto ids = tokenizer->encode(text, kPlain);
    ASSERT_TRUE(ids.ok()) << ids.status();
    ASSERT_EQ(*ids, plain.encode(text)) << ::testing::PrintToString(text);
  }
}

TEST(SentencePiece, RealModelsEncodeAsThePlainAlgorithm) {
  KASCADE_NEEDS_DATA("tokenizers/llama2");
  KASCADE_NEEDS_DATA("models/stories260K");
  std::mt19937 random(1);
  std::vector<std::string> texts = texts_of_shared_data();
  EXPECT_GT(texts.size(), static_cast<size_t>(testing::repetitions(500)));
  for (int i = 0; i < testing::repetitions(3000); ++i) {
    texts.push_back(testing::random_word(random, awkward_alphabet(), 60));
  }
  for (const char* name :
       {"tokenizers/llama2/tokenizer.model", "models/stories260K/tok512.model"}) {
    const auto vocabulary = parse_sentencepiece(testing::read_file(testing::shared_data() / name));
    ASSERT_TRUE(vocabulary.ok()) << vocabulary.status();
    EXPECT_EQ(vocabulary->bos, 1);
    EXPECT_TRUE(vocabulary->add_dummy_prefix);
    expect_like_sentencepiece(*vocabulary, texts);
  }
}

SentencePieceVocabulary random_vocabulary(std::mt19937& random) {
  static const std::vector<std::string> kAlphabet = {"a", "b", "c", "\u2581", "\u00e9"};
  SentencePieceVocabulary vocabulary = testing::sentencepiece_start(random() % 2 == 0);
  vocabulary.add_dummy_prefix = random() % 4 != 0;
  vocabulary.remove_extra_whitespaces = random() % 4 == 0;
  std::set<std::string> texts(kAlphabet.begin(), kAlphabet.end());
  for (size_t count = random() % 60; count > 0; --count) {
    const std::string text = testing::random_word(random, kAlphabet, 5);
    if (!text.empty()) texts.insert(text);
  }
  // Few scores, so that many pieces tie, and no order between a piece and its parts.
  const int scores = 1 + random() % 12;
  for (const std::string& text : texts) {
    vocabulary.pieces.push_back({text, -static_cast<float>(random() % scores), PieceType::kNormal});
  }
  return vocabulary;
}

TEST(SentencePiece, TiedScoresGoFromLeftToRight) {
  std::mt19937 random(2);
  for (int i = 0; i < 300; ++i) {
    std::vector<std::string> texts;
    for (int k = 0; k < 60; ++k) {
      texts.push_back(testing::random_word(
          random, {"a", "a", "b", "c", " ", " ", "\u00e9", "\u2581", "z"}, 24));
    }
    expect_like_sentencepiece(random_vocabulary(random), texts);
    if (HasFatalFailure()) return;
  }
}

// Here the order of a plain list decides wrongly, whichever it is: "aba" from "ab"+"a" in one place
// and from "a"+"ba" in the other, with a better merge waiting behind.
TEST(SentencePiece, OnePieceMadeInTwoWaysHasOneRank) {
  SentencePieceVocabulary vocabulary = testing::sentencepiece_start(false);
  vocabulary.add_dummy_prefix = false;
  for (const auto& [text, score] : std::vector<std::pair<const char*, float>>{
           {"a", -9}, {"b", -9}, {"ab", -1}, {"ba", -1}, {"aba", -2}, {"aaba", -1}, {"abab", -1}}) {
    vocabulary.pieces.push_back({text, score, PieceType::kNormal});
  }
  std::vector<std::string> texts;
  for (int bits = 0; bits < 1 << 12; ++bits) {
    std::string text;
    for (int i = 0; i < 12; ++i) text += (bits >> i & 1) != 0 ? 'a' : 'b';
    texts.push_back(text);
  }
  expect_like_sentencepiece(vocabulary, texts);
}

TEST(SentencePiece, FileIsReadBack) {
  SentencePieceVocabulary vocabulary = testing::sentencepiece_start(true);
  vocabulary.pieces.push_back({"\u2581x", -1.5f, PieceType::kNormal});
  vocabulary.pieces.push_back({"pad", 0, PieceType::kUnused});
  vocabulary.add_dummy_prefix = false;
  vocabulary.remove_extra_whitespaces = true;
  vocabulary.escape_whitespaces = false;
  const std::string unknown_field = testing::varint_field(4000, 7) + testing::bytes_field(9, "?");
  const auto read = parse_sentencepiece(unknown_field + testing::sentencepiece_file(vocabulary));
  ASSERT_TRUE(read.ok()) << read.status();
  ASSERT_EQ(read->pieces.size(), vocabulary.pieces.size());
  for (size_t id = 0; id < read->pieces.size(); ++id) {
    EXPECT_EQ(read->pieces[id].text, vocabulary.pieces[id].text);
    EXPECT_EQ(read->pieces[id].score, vocabulary.pieces[id].score);
    EXPECT_EQ(read->pieces[id].type, vocabulary.pieces[id].type);
  }
  EXPECT_EQ(read->bos, 1);
  EXPECT_FALSE(read->add_dummy_prefix);
  EXPECT_TRUE(read->remove_extra_whitespaces);
  EXPECT_FALSE(read->escape_whitespaces);
}

TEST(SentencePiece, SpecialPiecesComeOnlyWhenAskedFor) {
  SentencePieceVocabulary vocabulary = testing::sentencepiece_start(true);
  for (const char* text :
       {"<", "/", "s", ">", "</", "s>", "u", "n", "k", "0", "x", "A", "\u2581"}) {
    vocabulary.pieces.push_back({text, -1, PieceType::kNormal});
  }
  vocabulary.pieces.push_back({"user", 0, PieceType::kUserDefined});
  const auto user = static_cast<int32_t>(vocabulary.pieces.size()) - 1;
  const auto tokenizer = tokenizer_of(vocabulary);
  ASSERT_TRUE(tokenizer);
  for (const char* text : {"</s>", "<unk>", "<0x0A>"}) {
    const auto ids = tokenizer->encode(text, kPlain);
    ASSERT_TRUE(ids.ok());
    for (const int32_t id : *ids) {
      EXPECT_EQ(vocabulary.pieces[id].type, PieceType::kNormal) << text << " gives " << id;
    }
  }
  constexpr EncodeOptions kParse{.add_special_tokens = true, .parse_special_tokens = true};
  EXPECT_THAT(*tokenizer->encode("</s>", kParse), ElementsAre(1, 2));
  EXPECT_THAT(*tokenizer->encode("user", kPlain), ElementsAre(user));
  EXPECT_EQ(*tokenizer->decode(*tokenizer->encode("s user", kPlain), true), "s user");
}

TEST(SentencePiece, ExtraSpacesVanish) {
  SentencePieceVocabulary vocabulary = testing::sentencepiece_start(true);
  vocabulary.pieces.push_back({"\u2581", 0, PieceType::kNormal});
  vocabulary.remove_extra_whitespaces = true;
  const auto tokenizer = tokenizer_of(vocabulary);
  const auto through = [&](const std::string& text) {
    return *tokenizer->decode(*tokenizer->encode(text, kPlain), true);
  };
  EXPECT_EQ(through("   a    b \t  c   "), "a b \t c");
  EXPECT_EQ(through("     "), "");
  EXPECT_EQ(through(""), "");
  EXPECT_EQ(through("a \u2581"), "a");  // as SentencePiece: spelled like a space
  EXPECT_EQ(through(std::string(1'000'000, ' ') + "x"), "x");
  EXPECT_EQ(through("x" + std::string(1'000'000, ' ')), "x");
}

struct BadFile {
  std::string bytes;
  absl::StatusCode code;
  std::string message;
};

TEST(SentencePiece, RefusalsNameTheField) {
  using testing::bytes_field;
  using testing::varint_field;
  constexpr auto kBad = absl::StatusCode::kInvalidArgument;
  constexpr auto kNotDone = absl::StatusCode::kUnimplemented;
  const std::string piece = bytes_field(1, bytes_field(1, "a"));
  const std::string bpe = bytes_field(2, varint_field(3, 2));
  const std::vector<BadFile> files = {
      {"", kBad, "pieces: found none"},
      {piece, kNotDone, "trainer_spec.model_type: found unigram, supported: bpe"},
      {piece + bytes_field(2, varint_field(3, 4)), kNotDone, "found char"},
      {piece + bytes_field(2, varint_field(3, 3)), kNotDone, "found word"},
      {piece + bytes_field(2, varint_field(3, 77)), kNotDone, "found 77"},
      {piece + bytes_field(2, varint_field(3, 2) + varint_field(24, 1)), kNotDone,
       "trainer_spec.treat_whitespace_as_suffix"},
      {piece + bpe + bytes_field(3, bytes_field(1, "nmt_nfkc") + bytes_field(2, "xyz")), kNotDone,
       "normalizer_spec.precompiled_charsmap: found 3 bytes (nmt_nfkc)"},
      {piece + bpe + bytes_field(5, bytes_field(2, "xyz")), kNotDone, "denormalizer_spec"},
      {bytes_field(1, bytes_field(1, "a") + varint_field(3, 9)) + bpe, kBad, "pieces[0].type"},
      {bytes_field(1, varint_field(1, 9)) + bpe, kBad, "pieces[0].piece: wire type 0"},
      {piece + varint_field(2, 9), kBad, "trainer_spec: wire type 0"},
      {piece + bytes_field(1,
                           "\x0a\x05"
                           "a"),
       kBad, "pieces[1], byte 2: field 1 has 5 bytes"},
      {piece + "\x0b", kBad, "wire type 3"},
      {piece + "\x0a\xff", kBad, "runs past the end"},
      {piece + "\x08" + std::string(10, '\xff'), kBad, "more than 64 bits"},
      {piece + "\x15"
               "abc",
       kBad, "runs past the end"},
      {std::string(2, '\0'), kBad, "field number 0"},
  };
  for (const BadFile& file : files) {
    const auto vocabulary = parse_sentencepiece(file.bytes);
    ASSERT_FALSE(vocabulary.ok()) << file.message;
    EXPECT_EQ(vocabulary.status().code(), file.code) << vocabulary.status();
    EXPECT_THAT(std::string(vocabulary.status().message()), HasSubstr(file.message));
  }
}

TEST(SentencePiece, EveryCutOfAFileIsRefusedOrRead) {
  const std::string file = testing::sentencepiece_file(testing::sentencepiece_start(true));
  for (size_t size = 0; size < file.size(); ++size) (void)parse_sentencepiece(file.substr(0, size));
}

TEST(SentencePiece, VocabulariesThatCannotBeAreRefused) {
  using Change = std::function<void(SentencePieceVocabulary&)>;
  const auto add = [](const std::string& text, float score, PieceType type) {
    return [=](SentencePieceVocabulary& v) { v.pieces.push_back({text, score, type}); };
  };
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const std::vector<std::pair<Change, const char*>> changes = {
      {add("", 0, PieceType::kNormal), "pieces[259]: 0 bytes"},
      {add(std::string(1025, 'a'), 0, PieceType::kNormal), "pieces[259]: 1025 bytes"},
      {add("\xff", 0, PieceType::kNormal), "pieces[259]: is not UTF-8"},
      {add("a", nan, PieceType::kNormal), "pieces[259].score"},
      {add("<s>", 0, PieceType::kNormal), "that no other piece has"},
      {add("<0x1>", 0, PieceType::kByte), "byte piece"},
      {add("other", 0, PieceType::kUnknown), "expected at most 1"},
      {add("ab", 0, PieceType::kNormal), "whose characters are pieces"},
      {[](auto& v) { v.pieces[5].type = PieceType::kControl; }, "255 byte pieces"},
      {[](auto& v) { v.bos = 259; }, "bos: 259"},
      {[](auto& v) { v.pieces.clear(); }, "pieces: found 0"},
  };
  for (const auto& [change, message] : changes) {
    SentencePieceVocabulary vocabulary = testing::sentencepiece_start(true);
    change(vocabulary);
    const auto json = to_tokenizer_json(vocabulary);
    ASSERT_FALSE(json.ok()) << message;
    EXPECT_THAT(std::string(json.status().message()), HasSubstr(message));
  }
}

// Without a limit on merges these few kilobytes of pieces would become gigabytes.
TEST(SentencePiece, TooManyMergesAreRefused) {
  SentencePieceVocabulary vocabulary = testing::sentencepiece_start(true);
  for (const char* letter : {"a", "b", "c", "d", "e", "f", "g", "h", "i"}) {
    std::string text;
    for (int i = 0; i < 1000; ++i) {
      text += letter;
      vocabulary.pieces.push_back({text, 0, PieceType::kNormal});
    }
  }
  EXPECT_THAT(std::string(to_tokenizer_json(vocabulary).status().message()),
              HasSubstr("more than 4194304 merges"));
}

// ---- tiktoken -----------------------------------------------------------------------------------

void expect_like_tiktoken(const TiktokenVocabulary& vocabulary,
                          const std::vector<std::string>& texts) {
  const auto json = to_tokenizer_json(vocabulary);
  ASSERT_TRUE(json.ok()) << json.status();
  const auto tokenizer = parse_tokenizer_json(*json);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  const testing::Json pre_tokenizer = testing::Json::parse(*json)["pre_tokenizer"];
  const auto splitter = bpe::PreTokenizer::parse(&pre_tokenizer);
  ASSERT_TRUE(splitter.ok());
  const PlainTiktoken plain(vocabulary);
  for (const std::string& text : texts) {
    const auto ids = (*tokenizer)->encode(text, kPlain);
    ASSERT_TRUE(ids.ok()) << ids.status();
    std::vector<int32_t> expected;
    ASSERT_TRUE(splitter
                    ->split(text, true,
                            [&](std::string_view piece) {
                              plain.encode(piece, expected);
                              return absl::OkStatus();
                            })
                    .ok());
    ASSERT_EQ(*ids, expected) << ::testing::PrintToString(text);
  }
}

TEST(Tiktoken, Llama3EncodesAsThePlainAlgorithm) {
  KASCADE_NEEDS_DATA("tokenizers/llama3");
  const auto vocabulary = parse_tiktoken(
      testing::read_file(testing::shared_data() / "tokenizers/llama3/tokenizer_llama3.tiktoken"));
  ASSERT_TRUE(vocabulary.ok()) << vocabulary.status();
  std::mt19937 random(3);
  std::vector<std::string> texts = texts_of_shared_data();
  for (int i = 0; i < 5000; ++i) {
    texts.push_back(testing::random_word(random, awkward_alphabet(), 60));
  }
  expect_like_tiktoken(*vocabulary, texts);
}

TEST(Tiktoken, RandomRanks) {
  std::mt19937 random(4);
  for (int i = 0; i < 100; ++i) {
    // Single bytes anywhere among the ranks, and tokens that nothing leads to.
    std::set<std::string> texts;
    for (int byte = 0; byte < 256; ++byte) texts.insert(std::string(1, static_cast<char>(byte)));
    for (size_t count = random() % 80; count > 0; --count) {
      const std::string text = testing::random_word(random, {"a", "b", "c", "\xc3", "\xa9"}, 6);
      if (!text.empty()) texts.insert(text);
    }
    TiktokenVocabulary vocabulary{{texts.begin(), texts.end()}};
    std::shuffle(vocabulary.tokens.begin(), vocabulary.tokens.end(), random);
    std::vector<std::string> samples;
    for (int k = 0; k < 60; ++k) {
      samples.push_back(testing::random_word(random, {"a", "a", "b", "c", "\u00e9", " "}, 30));
    }
    expect_like_tiktoken(vocabulary, samples);
    if (HasFatalFailure()) return;
  }
}

TiktokenVocabulary byte_ranks() {
  TiktokenVocabulary vocabulary;
  for (int byte = 0; byte < 256; ++byte) vocabulary.tokens.push_back({static_cast<char>(byte)});
  return vocabulary;
}

TEST(Tiktoken, FileIsReadBackAndCompleted) {
  const TiktokenVocabulary vocabulary = byte_ranks();
  const auto read = parse_tiktoken(testing::tiktoken_file(vocabulary));
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->tokens, vocabulary.tokens);
  const auto tokenizer = tokenizer_of(*read);
  ASSERT_TRUE(tokenizer);
  EXPECT_EQ(tokenizer->vocab_size(), 512);
  EXPECT_THAT(tokenizer->prefix_tokens(), ElementsAre(256));
  const std::vector<std::pair<const char*, int>> names = {{"<|begin_of_text|>", 0},
                                                          {"<|end_of_text|>", 1},
                                                          {"<|reserved_special_token_0|>", 2},
                                                          {"<|finetune_right_pad_id|>", 4},
                                                          {"<|reserved_special_token_2|>", 5},
                                                          {"<|start_header_id|>", 6},
                                                          {"<|end_header_id|>", 7},
                                                          {"<|eom_id|>", 8},
                                                          {"<|eot_id|>", 9},
                                                          {"<|python_tag|>", 10},
                                                          {"<|reserved_special_token_247|>", 255}};
  for (const auto& [name, place] : names) {
    EXPECT_EQ(tokenizer->token_id(name), 256 + place) << name;
    EXPECT_TRUE(tokenizer->is_special(256 + place));
  }
  const auto ids = tokenizer->encode("<|eot_id|>", kPlain);
  EXPECT_EQ(ids->size(), 10u);  // plain bytes
}

TEST(Tiktoken, RefusalsNameTheLine) {
  std::vector<std::pair<std::string, const char*>> files = {
      {"AA== 0\nAQ==1\n", "line 2: is not"},   {"AA== 0\nAQ== 2\n", "line 2: expected rank 1"},
      {"AA== 0\nAQ== 1x\n", "line 2"},         {"A!== 0\n", "line 1: is not"},
      {"AA== 0\n\n", "line 2: is not"},        {"AA==  0\n", "line 1: expected rank 0"},
      {"AA== -0\n", "line 1: expected rank 0"}};
  for (const auto& [text, message] : files) {
    const auto vocabulary = parse_tiktoken(text);
    ASSERT_FALSE(vocabulary.ok()) << message;
    EXPECT_THAT(std::string(vocabulary.status().message()), HasSubstr(message));
  }
  EXPECT_EQ(tiktoken_to_tokenizer_json("AA== 0\n").status().code(),
            absl::StatusCode::kUnimplemented);
}

TEST(Tiktoken, RanksThatCannotBeAreRefused) {
  using Change = std::function<void(TiktokenVocabulary&)>;
  const std::vector<std::pair<Change, const char*>> changes = {
      {[](auto& v) { v.tokens.push_back(""); }, "rank 256: 0 bytes"},
      {[](auto& v) { v.tokens.push_back(std::string(513, 'a')); }, "rank 256: 513 bytes"},
      {[](auto& v) { v.tokens.push_back("a"); }, "rank 256: another rank has the same bytes"},
      {[](auto& v) { v.tokens[65] = "AA"; }, "no token for the single byte 65"}};
  for (const auto& [change, message] : changes) {
    TiktokenVocabulary vocabulary = byte_ranks();
    change(vocabulary);
    EXPECT_THAT(std::string(to_tokenizer_json(vocabulary).status().message()), HasSubstr(message));
  }
}

// ---- Byte-level lists ---------------------------------------------------------------------------

TEST(ByteLevelList, EqualsTheFileItCameFrom) {
  KASCADE_NEEDS_DATA("tokenizers/gpt2");
  const testing::Json json = testing::gpt2_json();
  ByteLevelVocabulary vocabulary{.pre_tokenizer = "gpt-2", .bos = 50256};
  vocabulary.tokens.resize(json["model"]["vocab"].size());
  for (const auto& [text, id] : json["model"]["vocab"].items()) {
    vocabulary.tokens[id.get<size_t>()] = {
        text, text == "<|endoftext|>" ? PieceType::kControl : PieceType::kNormal};
  }
  vocabulary.merges = json["model"]["merges"].get<std::vector<std::string>>();
  const auto made = tokenizer_of(vocabulary);
  const auto original = testing::parse_or_fail(json);
  ASSERT_TRUE(made && original);
  std::mt19937 random(5);
  for (int i = 0; i < 2000; ++i) {
    const std::string text = testing::random_word(random, awkward_alphabet(), 60);
    EXPECT_EQ(*made->encode(text, kPlain), *original->encode(text, kPlain));
  }
  EXPECT_THAT(*made->encode("", {}), ElementsAre(50256));
  vocabulary.add_bos = false;
  EXPECT_THAT(*tokenizer_of(vocabulary)->encode("", {}), IsEmpty());
}

TEST(ByteLevelList, RefusalsNameTheField) {
  using Change = std::function<void(ByteLevelVocabulary&)>;
  const std::vector<std::pair<Change, const char*>> changes = {
      {[](auto& v) { v.pre_tokenizer = "falcon"; }, "pre_tokenizer: found \"falcon\""},
      {[](auto& v) { v.tokens.clear(); }, "tokens: found 0"},
      {[](auto& v) { v.tokens.push_back({"a"}); }, "tokens[2]"},
      {[](auto& v) { v.tokens.push_back({"\xff"}); }, "tokens[2]: is not UTF-8"},
      {[](auto& v) { v.tokens.push_back({""}); }, "tokens[2]"},
      {[](auto& v) { v.merges.push_back("\xff a"); }, "merges[0]: is not UTF-8"},
      {[](auto& v) { v.bos = -1; }, "bos: -1"}};
  for (const auto& [change, message] : changes) {
    ByteLevelVocabulary vocabulary{.tokens = {{"a"}, {"b"}}, .pre_tokenizer = "llama-bpe"};
    EXPECT_TRUE(to_tokenizer_json(vocabulary).ok());
    change(vocabulary);
    EXPECT_THAT(std::string(to_tokenizer_json(vocabulary).status().message()), HasSubstr(message));
  }
}

}  // namespace
}  // namespace kascade
