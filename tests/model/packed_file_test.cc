// Tests files of packed weights: what was written is read again, and a file in which any byte
// differs is refused.
#include "engine/model/packed_file.h"

#include <sys/file.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "engine/base/checksum.h"
#include "engine/model/packed_file_writer.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/tiny_model.h"

namespace kascade::testing {
namespace {

using ::testing::ElementsAreArray;
using ::testing::HasSubstr;

using Bytes = std::vector<std::byte>;

Bytes pattern(size_t size, unsigned seed) {
  Bytes bytes(size);
  for (size_t i = 0; i < size; ++i) bytes[i] = static_cast<std::byte>(i * 7 + seed);
  return bytes;
}

std::string content_of(const std::filesystem::path& file) {
  std::ifstream in(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

class PackedFileTest : public ::testing::Test {
 protected:
  PackedLayout layout(const std::string& key = "key-a", const std::string& form = "form-1") const {
    return PackedLayout(key, {{"layers.0.qkv", form, 3, 5, 64}, {"head.0", form, 2, 4, 192}});
  }
  // Weights of which every copy has the checksum 5.
  static PackedSource source(char times = 'a', uint64_t checksum = 5) {
    return {.times = std::string(64, times), .checksum = [checksum] { return checksum; }};
  }
  absl::Status write(const PackedLayout& of) const {
    auto writer = PackedFileWriter::create(file_, of);
    if (!writer.ok()) return writer.status();
    for (const Bytes* matrix : {&first_, &second_}) {
      if (auto status = writer->add(*matrix); !status.ok()) return status;
    }
    return writer->finish(source());
  }
  void expect_refused(const PackedLayout& by, absl::StatusCode code, const std::string& why) const {
    const auto opened = PackedFile::open(file_, by, source());
    EXPECT_EQ(opened.status().code(), code) << why;
    EXPECT_THAT(std::string(opened.status().message()), HasSubstr(why));
    EXPECT_THAT(std::string(opened.status().message()), HasSubstr(file_.string()));
  }

  TempDir dir_;
  std::filesystem::path file_ = dir_ / "new" / "a.packed";
  Bytes first_ = pattern(64, 1);
  Bytes second_ = pattern(192, 2);
};

TEST_F(PackedFileTest, ReadsWhatWasWritten) {
  ASSERT_TRUE(write(layout()).ok());
  const auto opened = PackedFile::open(file_, layout(), source());
  ASSERT_TRUE(opened.ok()) << opened.status();
  ASSERT_EQ(opened->size(), 2u);
  EXPECT_EQ(opened->matrix(1).out_features, 2);
  EXPECT_THAT(opened->bytes(0), ElementsAreArray(first_));
  EXPECT_THAT(opened->bytes(1), ElementsAreArray(second_));
  EXPECT_EQ(reinterpret_cast<uintptr_t>(opened->bytes(1).data()) % 64, 0u);
  // Nothing else is left, and a second writer replaces the file.
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(file_.parent_path()), {}), 1);
  std::swap(first_[0], first_[1]);
  ASSERT_TRUE(write(layout()).ok());
  EXPECT_THAT(PackedFile::open(file_, layout(), source())->bytes(0), ElementsAreArray(first_));
}

TEST_F(PackedFileTest, NoFileIsNotFound) {
  EXPECT_TRUE(absl::IsNotFound(PackedFile::open(file_, layout(), source()).status()));
}

// Of the line with the times of the weight files and their checksum, only one of the two is needed:
// the checksum if the times are others.
TEST_F(PackedFileTest, EveryByteCounts) {
  ASSERT_TRUE(write(layout()).ok());
  const std::string good = content_of(file_);
  ASSERT_EQ(static_cast<int64_t>(good.size()), layout().file_bytes());
  const PackedSource by_times = source('a', 6), by_checksum = source('b', 5);
  ASSERT_TRUE(layout().check("file", good, by_times).ok());
  ASSERT_TRUE(layout().check("file", good, by_checksum).ok());
  const size_t line = good.find("weights of times"), end = good.find('\n', line);
  for (size_t at = 0; at < good.size(); ++at) {
    for (const char flip : {'\x01', '\x80'}) {
      std::string damaged = good;
      damaged[at] = static_cast<char>(damaged[at] ^ flip);
      const bool one = layout().check("file", damaged, by_times).ok();
      const bool other = layout().check("file", damaged, by_checksum).ok();
      EXPECT_FALSE(at > line && at < end ? one && other : one || other) << "byte " << at;
    }
  }
}

TEST_F(PackedFileTest, EveryCutIsSeen) {
  ASSERT_TRUE(write(layout()).ok());
  const std::string good = content_of(file_);
  for (size_t size = 0; size < good.size(); ++size) {
    EXPECT_FALSE(layout().check("file", std::string_view(good).substr(0, size), source()).ok())
        << size;
  }
  EXPECT_FALSE(layout().check("file", good + '\0', source()).ok());
}

TEST_F(PackedFileTest, SaysWhatIsWrong) {
  ASSERT_TRUE(write(layout()).ok());
  expect_refused(layout("key-b"), absl::StatusCode::kInvalidArgument, "is of other weights");
  expect_refused(layout("key-a", "form-2"), absl::StatusCode::kDataLoss, "the header is damaged");
  const std::string good = content_of(file_);
  const auto with = [&](const std::string& content) { write_file(file_, content); };
  with(std::string(good).replace(23, 1, "1"));
  expect_refused(layout(), absl::StatusCode::kInvalidArgument, "another version");
  with(good.substr(0, 100));
  expect_refused(layout(), absl::StatusCode::kDataLoss, "expected 4352 bytes, found 100");
  with("something else");
  expect_refused(layout(), absl::StatusCode::kInvalidArgument, "is not a file of packed weights");
  with("");
  expect_refused(layout(), absl::StatusCode::kInvalidArgument, "is empty");
  std::string damaged = good;
  damaged.back() = static_cast<char>(damaged.back() ^ 4);
  with(damaged);
  expect_refused(layout(), absl::StatusCode::kDataLoss, "matrix head.0 is damaged");
  std::filesystem::remove(file_);
  std::filesystem::create_directory(file_);
  expect_refused(layout(), absl::StatusCode::kInvalidArgument, "not a regular file");
}

// The weights are read only if the times do not show that they are the same.
TEST_F(PackedFileTest, OtherTimesMakeItReadTheWeights) {
  ASSERT_TRUE(write(layout()).ok());
  int reads = 0;
  const auto opened = [&](char times, uint64_t checksum) {
    PackedSource given = source(times);
    given.checksum = [&reads, checksum] { return ++reads, checksum; };
    return PackedFile::open(file_, layout(), given).status();
  };
  EXPECT_TRUE(opened('a', 6).ok());
  EXPECT_EQ(reads, 0);
  EXPECT_TRUE(opened('b', 5).ok());
  EXPECT_EQ(reads, 1);
  const absl::Status others = opened('b', 6);
  EXPECT_EQ(others.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(others.message()),
              HasSubstr("is of other weights: those of the checkpoint have checksum "
                        "0000000000000006, the packed ones come from 0000000000000005"));
}

TEST_F(PackedFileTest, AnUnfinishedFileLeavesNothing) {
  {
    auto writer = PackedFileWriter::create(file_, layout());
    ASSERT_TRUE(writer.ok() && writer->add(first_).ok());
  }
  EXPECT_TRUE(std::filesystem::is_empty(file_.parent_path()));
}

TEST_F(PackedFileTest, AFailedWriteLeavesNothing) {
  ASSERT_TRUE(write(layout()).ok());
  const std::string good = content_of(file_);
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  const rlimit small{.rlim_cur = 4100, .rlim_max = before.rlim_max};
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  const absl::Status status = write(layout());
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &before), 0);
  std::signal(SIGXFSZ, handler);
  EXPECT_FALSE(status.ok());
  EXPECT_THAT(std::string(status.message()), HasSubstr(".a.packed.partial: cannot"));
  EXPECT_EQ(content_of(file_), good);
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(file_.parent_path()), {}), 1);
}

TEST_F(PackedFileTest, FolderThatCannotBe) {
  write_file(dir_ / "new", "a file");
  EXPECT_THAT(std::string(write(layout()).message()), HasSubstr("cannot create"));
}

// What a killed process left is overwritten; what a living one writes is left alone.
TEST_F(PackedFileTest, OneWriterAtATime) {
  std::filesystem::create_directory(dir_ / "new");
  const auto partial = dir_ / "new" / ".a.packed.partial";
  write_file(partial, std::string(100000, 'x'));
  std::FILE* other = std::fopen(partial.c_str(), "r");
  ASSERT_NE(other, nullptr);
  ASSERT_EQ(flock(fileno(other), LOCK_EX), 0);
  EXPECT_TRUE(absl::IsAborted(write(layout())));
  EXPECT_EQ(content_of(partial).size(), 100000u);
  std::fclose(other);
  ASSERT_TRUE(write(layout()).ok());
  EXPECT_TRUE(PackedFile::open(file_, layout(), source()).ok());
  EXPECT_FALSE(std::filesystem::exists(partial));
}

TEST(Checksum, SeesFlipsSwapsAndTopBits) {
  const Bytes zeros(4096);
  const uint64_t sum = checksum(zeros);
  EXPECT_NE(sum, checksum(std::span(zeros).first(4032)));
  for (size_t first = 0; first < 4096; first += 8) {
    Bytes changed = zeros;
    changed[first + 7] = std::byte{0x80};  // the highest bit of a word
    EXPECT_NE(sum, checksum(changed));
    changed[(first + 64 + 7) % 4096] = std::byte{0x80};  // and of the next one of its lane
    EXPECT_NE(sum, checksum(changed));
  }
  Bytes two = zeros, swapped = zeros;
  two[0] = swapped[64] = std::byte{1};
  two[64] = swapped[0] = std::byte{2};
  EXPECT_NE(checksum(two), checksum(swapped));
}

}  // namespace
}  // namespace kascade::testing
