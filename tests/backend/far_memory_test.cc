// Tests that host code really cannot access the memory of the far-memory backend, on which the
// engine's tests run.
#include <cstddef>
#include <span>
#include <vector>

#include "gtest/gtest.h"
#include "tests/support/far_memory_backend.h"

namespace kascade::testing {
namespace {

TEST(FarMemoryDeathTest, ReadingOutsideOfAnOperationCrashes) {
  const auto backend = make_far_memory_backend();
  const Buffer buffer = backend->allocate(DType::kF32, 2, 3);
  const std::vector<float> values = {1, 2, 3, 4, 5, 6};
  backend->upload(std::as_bytes(std::span(values)), buffer.view());
  std::vector<float> downloaded(6);
  backend->download(buffer.view(), std::as_writable_bytes(std::span(downloaded)));
  EXPECT_EQ(downloaded, values);
  volatile float value = 0;
  EXPECT_DEATH(value = *buffer.view().f32(1), "");
  EXPECT_EQ(value, 0);
}

TEST(FarMemory, FreedMemoryIsUsedAgain) {
  const auto backend = make_far_memory_backend();
  for (int i = 0; i < 64; ++i) {
    EXPECT_TRUE(backend->allocate(DType::kF32, 64 << 10, 1 << 10).allocated()) << i;
  }
}

}  // namespace
}  // namespace kascade::testing
