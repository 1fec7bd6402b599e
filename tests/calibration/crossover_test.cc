#include "engine/calibration/crossover.h"

#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace kascade {
namespace {

// Chunks of 512 rows up to position 4,096, but for the first: seconds per row are a line.
std::vector<ChunkTime> on_line(double start, double slope) {
  std::vector<ChunkTime> chunks;
  for (int32_t begin = 512; begin < 4096; begin += 512) {
    chunks.push_back({begin, 512, 512 * (start + slope * (begin + 256))});
  }
  return chunks;
}

TEST(Crossover, IsWhereTheLinesMeetRounded) {
  // 2 + 1.0e-3 · p = 1 + 2.0e-3 · p at p = 1,000.
  EXPECT_EQ(crossover_position(on_line(1, 2e-3), on_line(2, 1e-3), 8192), 1024);
  EXPECT_EQ(crossover_position(on_line(1, 2e-3), on_line(2.2, 1e-3), 8192), 1280);
  // Beyond the chunks that were timed.
  EXPECT_EQ(crossover_position(on_line(1, 2e-3), on_line(7, 1e-3), 8192), 5888);
}

TEST(Crossover, IsZeroWhereSparseIsFasterFromTheStart) {
  EXPECT_EQ(crossover_position(on_line(1, 2e-3), on_line(1, 1e-3), 8192), 0);
  EXPECT_EQ(crossover_position(on_line(1, 2e-3), on_line(0.5, 3e-3), 8192), 0);
}

TEST(Crossover, IsTheContextWhereSparseNeverPays) {
  EXPECT_EQ(crossover_position(on_line(1, 1e-3), on_line(2, 1e-3), 8000), 8000);
  EXPECT_EQ(crossover_position(on_line(1, 1e-3), on_line(2, 2e-3), 8000), 8000);
  EXPECT_EQ(crossover_position(on_line(1, 2e-3), on_line(9.5, 1e-3), 8000), 8000);  // at 8,500
  EXPECT_EQ(crossover_position(on_line(1, 2e-3), on_line(8.9, 1e-3), 8000), 7936);
  EXPECT_EQ(crossover_position(on_line(1, 2e-3), on_line(8.9, 1e-3), 7910), 7910);
}

TEST(Crossover, FollowsAllChunksWhereOneIsOff) {
  auto sparse = on_line(2, 1e-3);
  sparse.back().seconds *= 1.02;
  const int32_t found = crossover_position(on_line(1, 2e-3), sparse, 8192);
  EXPECT_GE(found, 768);
  EXPECT_LE(found, 1280);
}

TEST(Crossover, IsZeroWhereTooLittleWasTimed) {
  const auto dense = on_line(1, 2e-3), sparse = on_line(2, 1e-3);
  EXPECT_EQ(crossover_position({dense.data(), 1}, sparse, 8192), 0);
  EXPECT_EQ(crossover_position(dense, {}, 8192), 0);
}

TEST(KeepShortest, TakesTheShorterTimeOfEachChunk) {
  std::vector<ChunkTime> times;
  keep_shortest(std::vector<ChunkTime>{{512, 512, 2}, {1024, 512, 3}}, times);
  keep_shortest(std::vector<ChunkTime>{{512, 512, 1}, {1024, 512, 4}, {1024, 100, 9}}, times);
  ASSERT_EQ(times.size(), 3u);
  EXPECT_EQ(times[0].seconds, 1);
  EXPECT_EQ(times[1].seconds, 3);
  EXPECT_EQ(times[2].rows, 100);
}

}  // namespace
}  // namespace kascade
