// Tests properties of every tokenizer: decoding gives the text back, and decoding piece by piece
// gives the same text as decoding at once.
#include <algorithm>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "engine/tokenizer/byte_alphabet.h"
#include "engine/tokenizer/tokenizer.h"
#include "engine/tokenizer/utf8.h"
#include "engine/tokenizer/vocabulary_files.h"
#include "gtest/gtest.h"
#include "tests/support/shared_data.h"
#include "tests/support/tokenizer_files.h"

namespace kascade {
namespace {

using testing::Json;

constexpr EncodeOptions kPlain{.add_special_tokens = false};

struct Source {
  const char* name;
  const char* needs;  // relative to the shared data; empty for the demo model
  std::function<absl::StatusOr<std::string>()> json;
  bool writes_all = false;  // every text has a spelling
};

std::string shared_file(const char* path) {
  return testing::read_file(testing::shared_data() / path);
}

absl::StatusOr<std::string> sentencepiece_json(const char* path) {
  const auto vocabulary = parse_sentencepiece(shared_file(path));
  if (!vocabulary.ok()) return vocabulary.status();
  return to_tokenizer_json(*vocabulary);
}

const std::vector<Source>& sources() {
  static const std::vector<Source> kSources = {
      {"Demo", "", [] { return testing::read_file(testing::demo_model() / "tokenizer.json"); }},
      {"Gpt2", "tokenizers/gpt2", [] { return testing::gpt2_json().dump(); }, true},
      {"Llama3", "tokenizers/llama3",
       [] {
         return tiktoken_to_tokenizer_json(
             shared_file("tokenizers/llama3/tokenizer_llama3.tiktoken"));
       },
       true},
      {"Llama2", "tokenizers/llama2",
       [] { return sentencepiece_json("tokenizers/llama2/tokenizer.model"); }, true},
      {"SmolLm2", "tokenizers/smollm2",
       [] { return shared_file("tokenizers/smollm2/tokenizer.json"); }},  // lacks some bytes
      {"Stories260K", "models/stories260K",
       [] { return sentencepiece_json("models/stories260K/tok512.model"); }},
      {"TinyStories", "models/tinystories-656k",
       [] { return shared_file("models/tinystories-656k/tokenizer.json"); }},
  };
  return kSources;
}

class TokenizerRoundTrip : public ::testing::TestWithParam<size_t> {
 protected:
  void open() {
    const Source& source = sources()[GetParam()];
    KASCADE_NEEDS_DATA(source.needs);
    const auto json = source.json();
    ASSERT_TRUE(json.ok()) << json.status();
    auto tokenizer = parse_tokenizer_json(*json);
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
    tokenizer_ = *std::move(tokenizer);
    drops_spaces_ = json->find("(?<!.|") != std::string::npos;
    byte_level_ = json->find("\"ByteLevel\"") != std::string::npos;
  }

  // Some vocabularies cannot write every text: no token for a byte or character, and none to fall
  // back on; "▁" is read back as a space where it stands for one; and extra spaces may be dropped.
  bool can_write(const std::string& text, const std::vector<int32_t>& ids) const {
    if (!byte_level_) {
      const bool keeps_spaces = !drops_spaces_ || (!text.starts_with(' ') && !text.ends_with(' ') &&
                                                   text.find("  ") == std::string::npos);
      return keeps_spaces && text.find("\u2581") == std::string::npos &&
             std::none_of(ids.begin(), ids.end(),
                          [&](int32_t id) { return tokenizer_->is_special(id); });
    }
    return std::all_of(text.begin(), text.end(), [&](char c) {
      return tokenizer_->token_id(bpe::spelling_of(static_cast<uint8_t>(c))).has_value();
    });
  }

  // Returns whether the text could be checked.
  bool check(const std::string& text) const {
    const auto ids = tokenizer_->encode(text, kPlain);
    EXPECT_TRUE(ids.ok()) << ids.status();
    if (!ids.ok() || !can_write(text, *ids)) return false;
    const auto decoded = tokenizer_->decode(*ids, /*skip_special=*/true);
    EXPECT_TRUE(decoded.ok()) << decoded.status();
    EXPECT_EQ(*decoded, text);
    return true;
  }

  std::unique_ptr<Tokenizer> tokenizer_;
  bool byte_level_ = false;
  bool drops_spaces_ = false;
};

uint32_t random_character(std::mt19937& random) {
  struct Range {
    uint32_t first, last;
  };
  static constexpr Range kRanges[] = {
      {'a', 'z'},         {' ', '~'},         {0x00, 0x1F},     {0x09, 0x0D},     {' ', ' '},
      {'0', '9'},         {0x7F, 0xFF},       {0x300, 0x36F},   {0x400, 0x4FF},   {0x5D0, 0x6FF},
      {0x2000, 0x206F},   {0x3040, 0x30FF},   {0x4E00, 0x9FFF}, {0x180E, 0x180E}, {0xE000, 0xFFFF},
      {0x1F300, 0x1FAFF}, {0x10000, 0x10FFFF}};
  const Range range = kRanges[random() % std::size(kRanges)];
  return range.first + random() % (range.last - range.first + 1);
}

std::string random_text(std::mt19937& random) {
  std::string text;
  const size_t length = random() % 40;
  for (size_t i = 0; i < length; ++i) bpe::append_code_point(random_character(random), text);
  return text;
}

TEST_P(TokenizerRoundTrip, RandomText) {
  open();
  if (!tokenizer_) return;
  std::mt19937 random(20240607);
  int checked = 0;
  int with_space_sign = 0;
  for (int i = 0; i < 10'000; ++i) {
    const std::string text = random_text(random);
    checked += check(text);
    with_space_sign += text.find("\u2581") != std::string::npos;
  }
  EXPECT_GT(checked, 20);  // most texts have something that a vocabulary without bytes lacks
  if (sources()[GetParam()].writes_all) {
    EXPECT_EQ(checked, 10'000 - (byte_level_ ? 0 : with_space_sign));
  }
}

// Long files are sampled at the beginning, in the middle and at the end.
std::string sample_of(const std::filesystem::path& path) {
  constexpr size_t kPart = 40'000;
  const std::string text = testing::read_file(path);
  if (text.size() <= 3 * kPart) return text;
  std::string sample = text.substr(0, kPart) + text.substr(text.size() / 2, kPart) +
                       text.substr(text.size() - kPart);
  std::string valid;  // the cuts may go through characters
  bpe::append_valid_utf8(sample, /*at_end=*/true, valid);
  return valid;
}

TEST_P(TokenizerRoundTrip, RealText) {
  open();
  if (!tokenizer_) return;
  KASCADE_NEEDS_DATA("text");
  int files = 0;
  for (const auto& entry :
       std::filesystem::recursive_directory_iterator(testing::shared_data() / "text")) {
    if (!entry.is_regular_file() || entry.path().extension() == ".xz") continue;
    ++files;
    const std::string text = sample_of(entry.path());
    if (bpe::valid_utf8_length(text) < text.size()) {
      EXPECT_FALSE(tokenizer_->encode(text, kPlain).ok()) << entry.path();
      continue;
    }
    int lines = 0;
    int checked = 0;
    for (size_t begin = 0; begin < text.size();) {  // by lines too: small enough to avoid <unk>
      const size_t end = std::min(text.find('\n', begin), text.size() - 1) + 1;
      checked += check(text.substr(begin, end - begin));
      ++lines;
      begin = end;
    }
    const bool whole = check(text);
    if (sources()[GetParam()].writes_all && (byte_level_ || text.find("\u2581") == text.npos)) {
      EXPECT_TRUE(whole) << entry.path();
      EXPECT_EQ(checked, lines) << entry.path();
    }
  }
  EXPECT_GT(files, 10);
}

std::string stream(const Tokenizer& tokenizer, const std::vector<int32_t>& ids, bool skip_special) {
  IncrementalDecoder decoder(tokenizer, {}, skip_special, false, /*continues_text=*/false);
  std::string text;
  for (const int32_t id : ids) {
    const auto piece = decoder.push(id);
    EXPECT_EQ(bpe::valid_utf8_length(piece.text), piece.text.size());
    EXPECT_FALSE(piece.matched_stop);
    text += piece.text;
  }
  return text + decoder.finish();
}

TEST_P(TokenizerRoundTrip, StreamIsTheWhole) {
  open();
  if (!tokenizer_) return;
  std::vector<int32_t> byte_tokens;
  for (int32_t id = 0; id < tokenizer_->vocab_size(); ++id) {
    const std::string_view bytes = tokenizer_->token_bytes(id);
    if (bpe::valid_utf8_length(bytes) < bytes.size()) byte_tokens.push_back(id);
  }
  std::mt19937 random(7);
  for (int i = 0; i < 2000; ++i) {
    std::vector<int32_t> ids(random() % 30);
    for (int32_t& id : ids) {
      const bool broken = !byte_tokens.empty() && random() % 2 == 0;
      id = broken ? byte_tokens[random() % byte_tokens.size()]
                  : static_cast<int32_t>(random() % tokenizer_->vocab_size());
    }
    const bool skip_special = i % 2 == 0;
    EXPECT_EQ(stream(*tokenizer_, ids, skip_special), *tokenizer_->decode(ids, skip_special));
  }
}

// A tokenizer whose tokens are single bytes, so that borders fall everywhere.
std::unique_ptr<Tokenizer> byte_tokenizer() {
  Json json = {{"pre_tokenizer", testing::byte_level(true)},
               {"decoder", testing::byte_level(true)}};
  json["model"] = {{"type", "BPE"}, {"merges", Json::array()}};
  for (int byte = 0; byte < 256; ++byte) {
    json["model"]["vocab"][bpe::spelling_of(static_cast<uint8_t>(byte))] = byte;
  }
  return testing::parse_or_fail(json);
}

struct Streamed {
  std::string text;
  std::optional<std::string> matched;
  size_t pushed = 0;  // tokens taken until the match
};

// One token per byte.
Streamed stream_with_stops(const std::string& text, const std::vector<std::string>& stops,
                           bool include_stop) {
  const auto tokenizer = byte_tokenizer();
  IncrementalDecoder decoder(*tokenizer, stops, true, include_stop, true);
  Streamed result;
  for (const char c : text) {
    const auto piece = decoder.push(static_cast<uint8_t>(c));
    result.text += piece.text;
    if (!result.matched) ++result.pushed;
    if (piece.matched_stop) result.matched = piece.matched_stop;
  }
  result.text += decoder.finish();
  return result;
}

TEST(StopStrings, EarliestEndWins) {
  struct Case {
    std::string text;
    std::vector<std::string> stops;
    std::optional<std::string> matched;
    std::string before;
  };
  const std::vector<Case> cases = {
      {"xaaaby", {"aab"}, "aab", "xa"},
      {"one two", {"two"}, "two", "one "},
      {"abc", {"abc", "ab"}, "ab", ""},
      {"xbcd", {"cd", "bcd"}, "bcd", "x"},
      {"abcde", {"abcdef", "cd"}, "cd", "ab"},
      {"abcdx", {"abcdef"}, std::nullopt, "abcdx"},
      {"aba", {"abab"}, std::nullopt, "aba"},
      {"stop stop", {"stop"}, "stop", ""},
      {"gr\u00fc\u00df dich", {"\u00df"}, "\u00df", "gr\u00fc"},
      {"no stops", {}, std::nullopt, "no stops"},
      {"empty", {""}, std::nullopt, "empty"},
      {"cut \xe2\x82", {"\u20ac"}, std::nullopt, "cut \ufffd"},
  };
  for (const Case& c : cases) {
    const Streamed without = stream_with_stops(c.text, c.stops, false);
    EXPECT_EQ(without.text, c.before) << c.text;
    EXPECT_EQ(without.matched, c.matched) << c.text;
    const Streamed with = stream_with_stops(c.text, c.stops, true);
    EXPECT_EQ(with.text, c.before + c.matched.value_or("")) << c.text;
    if (!c.matched) continue;
    EXPECT_EQ(without.pushed, c.before.size() + c.matched->size()) << c.text;
  }
}

TEST(StopStrings, HoldsBackOnlyWhatCouldBecomeOne) {
  const auto tokenizer = byte_tokenizer();
  IncrementalDecoder decoder(*tokenizer, {"END"}, true, false, true);
  EXPECT_EQ(decoder.push('a').text, "a");
  EXPECT_EQ(decoder.push('E').text, "");
  EXPECT_EQ(decoder.push('N').text, "");
  EXPECT_EQ(decoder.push('E').text, "EN");
  EXPECT_EQ(decoder.push('x').text, "Ex");
  EXPECT_EQ(decoder.push('E').text, "");
  EXPECT_EQ(decoder.finish(), "E");
}

TEST(StopStrings, NothingFollowsAMatch) {
  const auto tokenizer = byte_tokenizer();
  IncrementalDecoder decoder(*tokenizer, {"."}, true, true, true);
  EXPECT_EQ(decoder.push('.').matched_stop, ".");
  EXPECT_EQ(decoder.push('a').text, "");
  EXPECT_EQ(decoder.push('.').matched_stop, std::nullopt);
  EXPECT_EQ(decoder.finish(), "");
}

TEST(StopStrings, IdsWithoutATokenAreNoText) {
  const auto tokenizer = byte_tokenizer();
  IncrementalDecoder decoder(*tokenizer, {}, true, false, true);
  EXPECT_EQ(decoder.push(-1).text + decoder.push(256).text + decoder.push('a').text, "a");
}

// Whatever the tokens are, the result is that of the text fed byte by byte.
TEST(StopStrings, TokenBordersDoNotMatter) {
  const auto tokenizer = *open_tokenizer(testing::demo_model());
  const std::string text = "She said: \u00bbno\u00ab, and then the end of the story came, the end.";
  const std::vector<int32_t> ids = *tokenizer->encode(text, kPlain);
  for (size_t begin = 0; begin < text.size(); ++begin) {
    for (const size_t length : {1, 2, 3, 7, 20}) {
      const std::string stop = text.substr(begin, length);
      if (bpe::valid_utf8_length(stop) < stop.size()) continue;
      IncrementalDecoder decoder(*tokenizer, {stop, "unrelated"}, true, false, true);
      std::string streamed;
      std::optional<std::string> matched;
      for (const int32_t id : ids) {
        const auto piece = decoder.push(id);
        streamed += piece.text;
        if (piece.matched_stop) matched = piece.matched_stop;
      }
      streamed += decoder.finish();
      EXPECT_EQ(matched, stop);
      EXPECT_EQ(streamed, text.substr(0, text.find(stop)));
    }
  }
}

TEST(LeadingSpace, IsKeptBehindAPrompt) {
  KASCADE_NEEDS_DATA("models/tinystories-656k");
  const auto tokenizer = *open_tokenizer(testing::shared_data() / "models/tinystories-656k");
  const std::vector<int32_t> ids = *tokenizer->encode("Once", kPlain);
  IncrementalDecoder alone(*tokenizer, {}, true, false, /*continues_text=*/false);
  IncrementalDecoder behind(*tokenizer, {}, true, false, /*continues_text=*/true);
  std::string alone_text, behind_text;
  for (const int32_t id : ids) {
    alone_text += alone.push(id).text;
    behind_text += behind.push(id).text;
  }
  EXPECT_EQ(alone_text, "Once");
  EXPECT_EQ(behind_text, " Once");
}

INSTANTIATE_TEST_SUITE_P(All, TokenizerRoundTrip, ::testing::Range<size_t>(0, sources().size()),
                         [](const auto& source) { return sources()[source.param].name; });

}  // namespace
}  // namespace kascade
