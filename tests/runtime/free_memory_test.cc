#include "engine/runtime/free_memory.h"

#include <filesystem>
#include <fstream>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/tiny_model.h"

namespace kascade::testing {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

constexpr int64_t kGiB = int64_t{1} << 30;

class FreeMemoryTest : public ::testing::Test {
 protected:
  void write(const std::string& file, const std::string& text) {
    fs::create_directories((root_.path() / file).parent_path());
    std::ofstream(root_.path() / file) << text;
  }
  void machine_has(int64_t bytes) {
    write("meminfo", "MemTotal: 99999999 kB\nMemAvailable:   " + std::to_string(bytes / 1024) +
                         " kB\nBuffers: 12 kB\n");
  }
  FreeMemory read(const std::string& membership) {
    write("membership", membership);
    return free_memory({.meminfo = root_.path() / "meminfo",
                        .mounts = root_.path(),
                        .membership = root_.path() / "membership"});
  }
  static std::string bytes(int64_t count) { return std::to_string(count) + "\n"; }

  TempDir root_;
};

TEST_F(FreeMemoryTest, OfTheMachine) {
  machine_has(7 * kGiB);
  const FreeMemory memory = read("0::/\n");
  EXPECT_EQ(memory.bytes, 7 * kGiB);
  EXPECT_EQ(memory.source, "the machine");
}

TEST_F(FreeMemoryTest, OfAGroupLessWhatItUsesAndCannotGiveUp) {
  machine_has(7 * kGiB);
  write("job/memory.max", bytes(4 * kGiB));
  write("job/memory.current", bytes(3 * kGiB));
  write("job/memory.stat", "anon 5\nfile " + bytes(2 * kGiB) + "shmem " + bytes(kGiB));
  const FreeMemory memory = read("0::/job/inner\n");
  EXPECT_EQ(memory.bytes, 2 * kGiB);  // 4 − (3 − (2 − 1))
  EXPECT_THAT(memory.source, HasSubstr("/job"));
}

TEST_F(FreeMemoryTest, WithoutALimitTheMachineCounts) {
  machine_has(7 * kGiB);
  write("job/memory.max", "max\n");
  write("job/memory.current", bytes(3 * kGiB));
  EXPECT_EQ(read("0::/job\n").bytes, 7 * kGiB);
}

TEST_F(FreeMemoryTest, OfVersion1) {
  machine_has(7 * kGiB);
  write("memory/job/memory.limit_in_bytes", bytes(2 * kGiB));
  write("memory/job/memory.usage_in_bytes", bytes(kGiB));
  write("memory/job/memory.stat", "cache 1\ntotal_cache " + bytes(kGiB / 2) + "total_shmem 0\n");
  EXPECT_EQ(read("9:memory:/job\n0::/\n").bytes, 3 * kGiB / 2);
  EXPECT_EQ(read("9:cpu:/job\n0::/\n").bytes, 7 * kGiB);
}

TEST_F(FreeMemoryTest, IsNeverBelowZero) {
  machine_has(7 * kGiB);
  write("memory.max", bytes(kGiB));
  write("memory.current", bytes(2 * kGiB));
  EXPECT_EQ(read("0::/\n").bytes, 0);
}

TEST_F(FreeMemoryTest, WhereNothingIsToldFourGibibytesAreAssumed) {
  EXPECT_EQ(read("nonsense\n").bytes, 4 * kGiB);
  write("meminfo", "MemAvailable: much\n");
  EXPECT_EQ(read("0::/\n").bytes, 4 * kGiB);
}

}  // namespace
}  // namespace kascade::testing
