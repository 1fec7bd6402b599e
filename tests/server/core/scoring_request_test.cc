// Tests the preparation of a scoring request: windows that fit in the cache, special tokens, a BOS
// of two tokens, and refusals.
#include "server/core/scoring_request.h"

#include <memory>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/engine_client.h"
#include "tests/support/tiny_model.h"

namespace kascade::testing {
namespace {

using core::NamedSchedule;
using core::PreparedScoring;
using core::ScoreProtocol;
using core::ScoreWindow;
using core::ScoringRequest;
using core::TextToScore;
using core::TokensToScore;
using ::testing::ElementsAre;

class ScoringRequestTest : public ::testing::Test {
 protected:
  ScoringRequestTest() { write_tiny_model({.layers = 4, .context = 512}, dir_.path()); }
  void open(int64_t kv_memory_bytes = 0) {
    EngineOptions options;
    options.model_directory = dir_.path();
    options.max_sequences = 8;
    options.max_batch_tokens = 264;
    options.threads = 1;
    options.kv_memory_bytes = kv_memory_bytes;
    options.int4_keys = false;
    schedules_.reset();
    engine_ = make_engine(options);
    schedules_ = std::make_unique<core::Schedules>(*engine_, "");
  }
  absl::StatusOr<PreparedScoring> prepare(const ScoringRequest& request) {
    core::RequestGuard guard(memory_);
    return core::prepare(request, *engine_, *schedules_, guard);
  }
  PreparedScoring prepared(const ScoringRequest& request) {
    const auto result = prepare(request);
    EXPECT_TRUE(result.ok()) << result.status();
    return result.value_or(PreparedScoring{});
  }

  TempDir dir_;
  metrics::ServerMetrics metrics_;
  core::MemoryBudget memory_{int64_t{1} << 30, metrics_};
  std::unique_ptr<Engine> engine_;
  std::unique_ptr<core::Schedules> schedules_;
};

TEST_F(ScoringRequestTest, TheDefaultWindowIsWhatContextAndCacheHold) {
  open();
  ScoringRequest request;
  request.inputs = {TextToScore{"in the other"}};
  EXPECT_EQ(prepared(request).cut.window_tokens, 513);

  engine_.reset();
  open(32 * 4 * 2 * 2 * 8 * 4 * 11);  // 11 blocks of 32 tokens in f32
  const std::string longer(600, 'x');
  request.inputs = {TextToScore{longer}};
  EXPECT_EQ(prepared(request).cut.window_tokens, 11 * 32 + 1);
  EXPECT_EQ(prepared(request).windows(), 2);
  auto schedule = make_schedule(*engine_, {1}, {.query_tile = 16, .min_keys = 8});
  schedule->model = engine_->identity();
  seal(*schedule);
  ASSERT_TRUE(engine_->activate(schedule).ok());
  request.attention = DenseAttention{};
  request.compared_with = NamedSchedule{};
  EXPECT_EQ(prepared(request).cut.window_tokens, 5 * 32 + 1);
}

TEST_F(ScoringRequestTest, SpecialTokensCountAsTheyAreSpelledOnEveryWay) {
  open();
  ScoringRequest request;
  request.prompt_options.parse_special_tokens = true;
  const std::vector<Token> ids{kTinyBos, 'a', 'b', kTinyEos, 'c'};
  request.inputs = {TextToScore{"ab<|eos|>c"},
                    TextToScore{"<|bos|>ab<|eos|>c"},  // its BOS is not scored
                    TokensToScore{.tokens = ids}, TextToScore{.text = "<|eos|>c", .context = "ab"}};
  const PreparedScoring result = prepared(request);
  ASSERT_EQ(result.inputs.size(), 4u);
  EXPECT_EQ(result.inputs[0].bytes_scored, 10);
  EXPECT_EQ(result.inputs[1].bytes_scored, 10);
  EXPECT_EQ(result.inputs[2].bytes_scored, 10);
  EXPECT_EQ(result.inputs[3].bytes_scored, 8);
}

TEST_F(ScoringRequestTest, TextsAreCutToTheirFirstTokens) {
  open();
  ScoringRequest request;
  request.max_tokens_per_text = 3;
  const std::vector<Token> ids{'a', 'b', 'c', 'd', 'e', 'f'};
  request.inputs = {TextToScore{"abcdef"}, TextToScore{"ab"},
                    TextToScore{.text = "cdefgh", .context = "ab"}, TokensToScore{.tokens = ids},
                    TokensToScore{.tokens = ids, .context_tokens = 2}};
  const PreparedScoring result = prepared(request);
  EXPECT_THAT(result.inputs[0].tokens, ElementsAre(kTinyBos, 'a', 'b', 'c'));
  EXPECT_EQ(result.inputs[0].tokens_to_score, 3);
  EXPECT_EQ(result.inputs[0].bytes_scored, 3);
  EXPECT_EQ(result.inputs[1].tokens.size(), 3u);
  EXPECT_EQ(result.inputs[1].bytes_scored, 2);
  EXPECT_THAT(result.inputs[2].tokens, ElementsAre(kTinyBos, 'a', 'b', 'c', 'd', 'e'));
  EXPECT_EQ(result.inputs[2].tokens_to_score, 3);
  EXPECT_THAT(result.inputs[3].tokens, ElementsAre('a', 'b', 'c'));
  EXPECT_EQ(result.inputs[3].tokens_to_score, 2);
  EXPECT_THAT(result.inputs[4].tokens, ElementsAre('a', 'b', 'c', 'd', 'e'));
  EXPECT_EQ(result.inputs[4].tokens_to_score, 3);
  for (const int32_t wrong : {0, -1, (1 << 20) + 1}) {
    request.max_tokens_per_text = wrong;
    EXPECT_THAT(std::string(prepare(request).status().message()),
                ::testing::StartsWith("max_tokens_per_text: must be in [1, 1048576]"));
  }
}

TEST_F(ScoringRequestTest, ABosOfTwoTokensIsNeverScored) {
  nlohmann::json tokenizer = tiny_tokenizer();
  tokenizer["post_processor"]["special_tokens"]["<|bos|>"]["ids"] = {kTinyBos, kTinyEos};
  write_file(dir_ / "tokenizer.json", tokenizer.dump());
  open();
  ScoringRequest request;
  request.window_tokens = 5;
  request.prompt_options.add_bos = true;
  const std::vector<Token> ids(8, 'q');
  std::vector<Token> with_bos{kTinyBos, kTinyEos};
  with_bos.insert(with_bos.end(), ids.begin(), ids.end());
  request.inputs = {TextToScore{"qqqqqqqq"}, TokensToScore{.tokens = ids},
                    TokensToScore{.tokens = with_bos}};
  const PreparedScoring result = prepared(request);
  for (const auto& input : result.inputs) {
    EXPECT_EQ(input.tokens.size(), 10u);
    EXPECT_EQ(input.tokens_to_score, 8);
    EXPECT_EQ(input.bytes_scored, 8);
    EXPECT_THAT(input.windows,
                ElementsAre(ScoreWindow{0, 5, 2}, ScoreWindow{4, 5, 1}, ScoreWindow{5, 5, 4}));
  }
}

TEST_F(ScoringRequestTest, EveryProtocolHasItsDefaultWindow) {
  open();
  ScoringRequest request;
  const std::string text(1100, 'x');
  request.inputs = {TextToScore{text}};
  request.protocol = ScoreProtocol::kChunk;
  EXPECT_EQ(prepared(request).cut.window_tokens, 512);
  EXPECT_EQ(prepared(request).tokens_to_score(), 2 * 255);
  request.protocol = ScoreProtocol::kStrided;
  EXPECT_EQ(prepared(request).cut.window_tokens, 512);
  EXPECT_EQ(prepared(request).cut.stride_tokens, 256);
  EXPECT_EQ(prepared(request).tokens_to_score(), 1100);
  EXPECT_EQ(prepared(request).windows(), 4);

  engine_.reset();
  open(32 * 4 * 2 * 2 * 8 * 4 * 11);  // 11 blocks of 32 tokens in f32
  EXPECT_EQ(prepared(request).cut.window_tokens, 11 * 32);
  request.protocol = ScoreProtocol::kChunk;
  EXPECT_EQ(prepared(request).cut.window_tokens, 11 * 32 + 1);
}

TEST_F(ScoringRequestTest, ABosThatReachesIntoTheScoredHalfIsRefused) {
  nlohmann::json tokenizer = tiny_tokenizer();
  tokenizer["post_processor"]["special_tokens"]["<|bos|>"]["ids"] = {kTinyBos, kTinyEos, kTinyBos};
  write_file(dir_ / "tokenizer.json", tokenizer.dump());
  open();
  ScoringRequest request;
  const std::string text(100, 'x');
  request.inputs = {TextToScore{text}};
  request.protocol = ScoreProtocol::kChunk;
  request.window_tokens = 4;
  EXPECT_THAT(prepared(request).inputs[0].window_start, ElementsAre(kTinyBos, kTinyEos, kTinyBos));
  request.window_tokens = 3;
  const auto status = prepare(request).status();
  EXPECT_THAT(std::string(status.message()), ::testing::StartsWith("window_tokens: a BOS of 3"));
}

TEST_F(ScoringRequestTest, ATextThatThePatternCannotMatchIsTheTextsFault) {
  nlohmann::json tokenizer = tiny_tokenizer();
  tokenizer["pre_tokenizer"] = {{"type", "Sequence"},
                                {"pretokenizers",
                                 {{{"type", "Split"},
                                   {"pattern", {{"Regex", "(?:a+)+b"}}},
                                   {"behavior", "Isolated"},
                                   {"invert", false}},
                                  {{"type", "ByteLevel"},
                                   {"add_prefix_space", false},
                                   {"trim_offsets", true},
                                   {"use_regex", false}}}}};
  write_file(dir_ / "tokenizer.json", tokenizer.dump());
  open();
  ScoringRequest request;
  // The b at the end keeps the matcher from giving up before it has begun.
  const std::string text = std::string(200, 'a') + "cb";
  request.inputs = {TextToScore{text}};
  const auto status = prepare(request).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
  EXPECT_THAT(std::string(status.message()), ::testing::StartsWith("inputs[0].text: "));
}

}  // namespace
}  // namespace kascade::testing
