#include "client/benchmark/run_times.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace kascade::client {
namespace {

using testing::HasSubstr;
using testing::StartsWith;

TEST(RunTimes, MedianOfOddAndEvenCounts) {
  EXPECT_EQ(RunTimes{{5}}.median(), 5);
  EXPECT_EQ((RunTimes{{9, 1, 4}}).median(), 4);
  EXPECT_EQ((RunTimes{{9, 1, 4, 6}}).median(), 5);
}

TEST(RunTimes, MeanAndEnds) {
  const RunTimes times{{3, 1, 8}};
  EXPECT_EQ(times.mean(), 4);
  EXPECT_EQ(times.least(), 1);
  EXPECT_EQ(times.largest(), 8);
  EXPECT_EQ(times.milliseconds.front(), 3);  // the order is kept
}

SpeedComparison comparison(double dense, double sparse, double share = 0.043) {
  return {.work = Work::kPrefill,
          .tokens = 512,
          .attention_share = share,
          .dense = {{dense}},
          .sparse = {{sparse}}};
}

TEST(SpeedSentence, HasThreeTiers) {
  EXPECT_THAT(speed_sentence(comparison(12.1, 10, 0.5)), StartsWith("Faster: 1.21x"));
  EXPECT_THAT(speed_sentence(comparison(12, 10)), StartsWith("About equal: 1.20x"));
  EXPECT_THAT(speed_sentence(comparison(8, 10)), StartsWith("About equal: 0.80x"));
  EXPECT_THAT(speed_sentence(comparison(7.9, 10)), StartsWith("Slower: 0.79x"));
  EXPECT_THAT(speed_sentence(comparison(10, 10)), HasSubstr("4.3 % of the arithmetic"));
}

TEST(SpeedSentence, DoesNotPraiseWhatAttentionCannotExplain) {
  // Attention that takes no time makes a half of the work twice as fast, and 4.3 % of it 1.04
  // times.
  EXPECT_THAT(speed_sentence(comparison(21, 10, 0.5)), StartsWith("Faster than explained: 2.10x"));
  EXPECT_THAT(speed_sentence(comparison(19, 10, 0.5)), StartsWith("Faster: 1.90x"));
  EXPECT_THAT(speed_sentence(comparison(13.8, 10)), HasSubstr("would give 1.04x"));
}

// The tiny model: 2 layers, width 64, 2 heads of 32, feed-forward 128, vocabulary 256.
v1::ModelInfo tiny() {
  v1::ModelInfo model;
  model.set_layers(2);
  model.set_hidden_size(64);
  model.set_heads(2);
  model.set_kv_heads(2);
  model.set_head_dim(32);
  model.set_intermediate_size(128);
  model.set_vocab_size(256);
  return model;
}

TEST(AttentionShare, OfPrefillCountsArithmetic) {
  // Weights of the layers: 2 · 64 · (4 · 64 + 3 · 128) = 81,920; of the head 16,384. For 10 tokens:
  // 2 · 81,920 · 10 + 2 · 16,384 = 1,671,168; attention: 4 · 2 · 64 · 55 = 28,160.
  EXPECT_DOUBLE_EQ(attention_share(Work::kPrefill, 10, tiny(), {}), 28160.0 / (28160 + 1671168));
}

TEST(AttentionShare, OfDecodeCountsBytes) {
  v1::RuntimeInfo runtime;
  runtime.set_weights_dtype("bf16");
  runtime.set_kv_bytes_per_token(512);
  EXPECT_DOUBLE_EQ(attention_share(Work::kDecode, 100, tiny(), runtime),
                   51200.0 / (51200 + 2 * (81920 + 16384)));
  runtime.set_weights_dtype("int4");
  EXPECT_DOUBLE_EQ(attention_share(Work::kDecode, 100, tiny(), runtime),
                   51200.0 / (51200 + (81920 + 16384) / 2.0));
}

}  // namespace
}  // namespace kascade::client
