#include "engine/runtime/cache_shape.h"

#include <cstdint>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace kascade {
namespace {

using ::testing::HasSubstr;

constexpr int64_t kMiB = int64_t{1} << 20;

ModelConfig model() {
  ModelConfig config;
  config.layers = 2;
  config.kv_heads = 2;
  config.head_dim = 64;
  config.context = 1024;
  return config;
}

absl::StatusOr<KvCacheShape> shape_with(int64_t asked, int64_t left, int32_t sequences = 4) {
  EngineOptions options;
  options.kv_memory_bytes = asked;
  options.max_sequences = sequences;
  options.int4_keys = false;
  return cache_shape(options, model(), DType::kF32, {left, "7 that the machine leaves"});
}

// A token has a key and a value of 64 floats in each of 2 · 2 heads.
constexpr int64_t kTokenBytes = 2 * 2 * 2 * 64 * 4;

int64_t bytes_of(const KvCacheShape& shape) { return shape.block_bytes() * shape.blocks; }

TEST(CacheShape, TakesWhatIsAskedFor) {
  const auto shape = shape_with(8 * kMiB, 64 * kMiB);
  ASSERT_TRUE(shape.ok()) << shape.status();
  EXPECT_EQ(bytes_of(*shape), 8 * kMiB);
  EXPECT_TRUE(shape_with(8 * kMiB, 8 * kMiB).ok());
}

TEST(CacheShape, RefusesMoreThanIsLeft) {
  const auto refused = shape_with(8 * kMiB + 1, 8 * kMiB);
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(refused.status().message(),
            "kv_memory_bytes: 8388609 bytes are more than the 8388608 that are left (7 that the "
            "machine leaves)");
}

TEST(CacheShape, TakesFullContextsButAtMostHalfOfWhatIsLeft) {
  const int64_t full = 4 * 1024 * kTokenBytes;
  EXPECT_EQ(bytes_of(*shape_with(0, 100 * full)), full);
  EXPECT_EQ(bytes_of(*shape_with(0, full)), full / 2);
}

TEST(CacheShape, RefusesTooLittleForAChunk) {
  const auto refused = shape_with(0, 1 * kMiB);
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(refused.status().message()), HasSubstr("kv_memory_bytes: 524288 bytes"));
}

TEST(MemoryLeft, IsWhatMappedWeightsLeave) {
  const MemoryLeft left = memory_left({5000, "the machine"}, 1200, 0);
  EXPECT_EQ(left.bytes, 3800);
  EXPECT_EQ(left.reckoning, "5000 that the machine leaves, less 1200 for weights in mapped files");
  EXPECT_EQ(memory_left({5000, "the machine"}, 6000, 0).bytes, 0);
}

TEST(MemoryLeft, IsLessWhatRequestsMayTake) {
  const MemoryLeft left = memory_left({5000, "the machine"}, 1200, 800);
  EXPECT_EQ(left.bytes, 3000);
  EXPECT_EQ(left.reckoning,
            "5000 that the machine leaves, less 1200 for weights in mapped files, less 800 for "
            "requests");
}

TEST(MemoryLeft, IsAtLeastHalfWhateverRequestsMayTake) {
  const MemoryLeft left = memory_left({5000, "the machine"}, 1200, 1 << 30);
  EXPECT_EQ(left.bytes, 1900);
  EXPECT_THAT(left.reckoning, HasSubstr("less 1900 for requests (half of the rest; "
                                        "request_memory_bytes is 1073741824)"));
}

}  // namespace
}  // namespace kascade
