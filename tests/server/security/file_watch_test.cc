// Tests when a change of files is noticed.
#include "server/security/file_watch.h"

#include <atomic>
#include <chrono>
#include <string>
#include <thread>

#include "gtest/gtest.h"
#include "tests/support/tiny_model.h"

namespace kascade::testing {
namespace {

using security::FileWatch;

constexpr absl::Duration kInterval = absl::Milliseconds(5);

class FileWatchTest : public ::testing::Test {
 protected:
  bool changes_become(int count) const {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
    while (changes_ < count && std::chrono::steady_clock::now() < deadline) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    return changes_ == count;
  }

  const TempDir dir_{};
  std::atomic<int> changes_ = 0;
};

TEST_F(FileWatchTest, EachChangeIsToldOnce) {
  const auto first = dir_ / "first";
  const auto second = dir_ / "second";
  write_file(first, "1");
  FileWatch watch({first, second}, kInterval);
  write_file(first, "2");  // between the look of the constructor and start()
  watch.start([this] { ++changes_; });
  EXPECT_TRUE(changes_become(1));
  write_file(second, "1");
  EXPECT_TRUE(changes_become(2));
  std::filesystem::remove(first);
  EXPECT_TRUE(changes_become(3));
  // The same contents under another time are no change: the next one is the fourth.
  write_file(second, "1");
  write_file(first, "2");
  EXPECT_TRUE(changes_become(4));
}

TEST_F(FileWatchTest, ALookFindsAChangeAtOnce) {
  const auto file = dir_ / "file";
  write_file(file, "1");
  FileWatch watch({file}, absl::Hours(1));
  watch.start([this] { ++changes_; });
  watch.look();
  EXPECT_EQ(changes_, 0);
  write_file(file, "2");
  watch.look();
  EXPECT_EQ(changes_, 1);
  watch.look();
  EXPECT_EQ(changes_, 1);
}

TEST_F(FileWatchTest, AFileIsReadUpToALimit) {
  const auto file = dir_ / "file";
  write_file(file, "content");
  EXPECT_EQ(*security::read_named_file("--flag", file), "content");
  write_file(file, std::string((size_t{4} << 20) + 1, 'x'));
  EXPECT_EQ(security::read_named_file("--flag", file).status().message(),
            "--flag " + file.string() + ": is larger than 4194304 bytes");
}

}  // namespace
}  // namespace kascade::testing
