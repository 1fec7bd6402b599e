// What plan_score makes of texts and ids: windows that the cache can hold, special tokens, a BOS of
// two tokens.
#include <memory>
#include <string>

#include "engine/engine.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/score_plan.h"
#include "tests/support/engine_client.h"
#include "tests/support/tiny_model.h"

namespace kascade::testing {
namespace {

using server::ScorePlan;
using server::ScoreWindow;
using ::testing::ElementsAre;

class ScorePlanTest : public ::testing::Test {
 protected:
  ScorePlanTest() { write_tiny_model({.layers = 4, .context = 512}, dir_.path()); }
  void open(int64_t kv_memory_bytes = 0) {
    EngineOptions options;
    options.model_directory = dir_.path();
    options.max_sequences = 8;
    options.max_batch_tokens = 264;
    options.threads = 1;
    options.kv_memory_bytes = kv_memory_bytes;
    engine_ = make_engine(options);
  }
  ScorePlan plan(const v1::ScoreRequest& request) {
    const auto result = server::plan_score(request, *engine_, absl::InfiniteFuture());
    EXPECT_TRUE(result.ok()) << result.status();
    return result.value_or(ScorePlan{});
  }

  TempDir dir_;
  std::unique_ptr<Engine> engine_;
};

TEST_F(ScorePlanTest, TheDefaultWindowIsWhatContextAndCacheHold) {
  open();
  v1::ScoreRequest request;
  request.add_inputs()->set_text("in the other");
  EXPECT_EQ(plan(request).cut.window_tokens, 513);

  engine_.reset();
  open(32 * 4 * 2 * 2 * 8 * 4 * 11);  // 11 blocks of 32 tokens in f32
  request.mutable_inputs(0)->set_text(std::string(600, 'x'));
  EXPECT_EQ(plan(request).cut.window_tokens, 11 * 32 + 1);
  EXPECT_EQ(plan(request).windows(), 2);
  auto schedule = make_schedule(*engine_, {1}, {.query_tile = 16, .min_keys = 8});
  schedule->model = engine_->identity();
  seal(*schedule);
  ASSERT_TRUE(engine_->activate(schedule).ok());
  request.mutable_attention()->set_mode(v1::ATTENTION_MODE_COMPARE);
  EXPECT_EQ(plan(request).cut.window_tokens, 5 * 32 + 1);
}

TEST_F(ScorePlanTest, SpecialTokensCountAsTheyAreSpelledOnEveryWay) {
  open();
  v1::ScoreRequest request;
  request.set_parse_special_tokens(true);
  request.add_inputs()->set_text("ab<|eos|>c");
  request.add_inputs()->set_text("<|bos|>ab<|eos|>c");  // its BOS is not scored
  auto& ids = *request.add_inputs()->mutable_token_ids();
  for (const int id : {kTinyBos, int{'a'}, int{'b'}, kTinyEos, int{'c'}}) ids.add_ids(id);
  auto& with_context = *request.add_inputs();
  with_context.set_context("ab");
  with_context.set_text("<|eos|>c");
  const ScorePlan result = plan(request);
  ASSERT_EQ(result.inputs.size(), 4u);
  EXPECT_EQ(result.inputs[0].bytes_scored, 10);
  EXPECT_EQ(result.inputs[1].bytes_scored, 10);
  EXPECT_EQ(result.inputs[2].bytes_scored, 10);
  EXPECT_EQ(result.inputs[3].bytes_scored, 8);
}

TEST_F(ScorePlanTest, ABosOfTwoTokensIsNeverScored) {
  nlohmann::json tokenizer = tiny_tokenizer();
  tokenizer["post_processor"]["special_tokens"]["<|bos|>"]["ids"] = {kTinyBos, kTinyEos};
  write_file(dir_ / "tokenizer.json", tokenizer.dump());
  open();
  v1::ScoreRequest request;
  request.set_window_tokens(5);
  request.set_add_bos(true);
  request.add_inputs()->set_text("qqqqqqqq");
  auto& ids = *request.add_inputs()->mutable_token_ids();
  for (int i = 0; i < 8; ++i) ids.add_ids('q');
  auto& with_bos = *request.add_inputs()->mutable_token_ids();
  for (const int32_t id : {kTinyBos, kTinyEos}) with_bos.add_ids(id);
  for (int i = 0; i < 8; ++i) with_bos.add_ids('q');
  const ScorePlan result = plan(request);
  for (const auto& input : result.inputs) {
    EXPECT_EQ(input.tokens.size(), 10u);
    EXPECT_EQ(input.tokens_to_score, 8);
    EXPECT_EQ(input.bytes_scored, 8);
    EXPECT_THAT(input.windows,
                ElementsAre(ScoreWindow{0, 5, 2}, ScoreWindow{4, 5, 1}, ScoreWindow{5, 5, 4}));
  }
}

TEST_F(ScorePlanTest, EveryProtocolHasItsDefaultWindow) {
  open();
  v1::ScoreRequest request;
  request.add_inputs()->set_text(std::string(1100, 'x'));
  request.set_protocol(v1::SCORE_PROTOCOL_CHUNK);
  EXPECT_EQ(plan(request).cut.window_tokens, 512);
  EXPECT_EQ(plan(request).tokens_to_score(), 2 * 255);
  request.set_protocol(v1::SCORE_PROTOCOL_STRIDED);
  EXPECT_EQ(plan(request).cut.window_tokens, 512);
  EXPECT_EQ(plan(request).cut.stride_tokens, 256);
  EXPECT_EQ(plan(request).tokens_to_score(), 1100);
  EXPECT_EQ(plan(request).windows(), 4);

  engine_.reset();
  open(32 * 4 * 2 * 2 * 8 * 4 * 11);  // 11 blocks of 32 tokens in f32
  EXPECT_EQ(plan(request).cut.window_tokens, 11 * 32);
  request.set_protocol(v1::SCORE_PROTOCOL_CHUNK);
  EXPECT_EQ(plan(request).cut.window_tokens, 11 * 32 + 1);
}

TEST_F(ScorePlanTest, ABosThatReachesIntoTheScoredHalfIsRefused) {
  nlohmann::json tokenizer = tiny_tokenizer();
  tokenizer["post_processor"]["special_tokens"]["<|bos|>"]["ids"] = {kTinyBos, kTinyEos, kTinyBos};
  write_file(dir_ / "tokenizer.json", tokenizer.dump());
  open();
  v1::ScoreRequest request;
  request.add_inputs()->set_text(std::string(100, 'x'));
  request.set_protocol(v1::SCORE_PROTOCOL_CHUNK);
  request.set_window_tokens(4);
  EXPECT_THAT(plan(request).inputs[0].window_start, ElementsAre(kTinyBos, kTinyEos, kTinyBos));
  request.set_window_tokens(3);
  const auto status = server::plan_score(request, *engine_, absl::InfiniteFuture()).status();
  EXPECT_THAT(std::string(status.message()), ::testing::StartsWith("window_tokens: a BOS of 3"));
}

TEST_F(ScorePlanTest, ATextThatThePatternCannotMatchIsTheTextsFault) {
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
  v1::ScoreRequest request;
  // The b at the end keeps the matcher from giving up before it has begun.
  request.add_inputs()->set_text(std::string(200, 'a') + "cb");
  const auto status = server::plan_score(request, *engine_, absl::InfiniteFuture()).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
  EXPECT_THAT(std::string(status.message()), ::testing::StartsWith("inputs[0].text: "));
}

TEST(RollingWindows, ScoreEachTokenFromTheFirstOnOnce) {
  for (int64_t first = 1; first <= 4; ++first) {
    for (const int window : {2, 3, 4, 7}) {
      int64_t next = first;
      for (const ScoreWindow& cut : server::rolling_windows(20, window, first)) {
        EXPECT_GE(cut.begin, 0);
        EXPECT_LE(cut.count, window);
        EXPECT_GE(cut.first_scored, 1);
        EXPECT_EQ(cut.begin + cut.first_scored, next);
        next = cut.begin + cut.count;
      }
      EXPECT_EQ(next, 20);
    }
  }
}

}  // namespace
}  // namespace kascade::testing
