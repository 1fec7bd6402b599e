// Tests files of records: what was appended is read again, and damage costs no more than what
// follows it.
#include "server/core/record_file.h"

#include <filesystem>
#include <fstream>
#include <memory>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/size_limit.h"
#include "tests/support/tiny_model.h"

namespace kascade::core {
namespace {

using ::testing::HasSubstr;
using testing::TempDir;

std::string content(const std::filesystem::path& file) {
  std::ostringstream out;
  out << std::ifstream(file, std::ios::binary).rdbuf();
  return out.str();
}

class RecordFileTest : public ::testing::Test {
 protected:
  RecordFileTest() {
    auto made = RecordFile::create(file_, {{"first", "1"}, {"second", std::string(1000, '\0')}});
    EXPECT_TRUE(made.ok()) << made.status();
    for (const char* name : {"third", "fourth"}) EXPECT_TRUE((*made)->append({name, name}).ok());
  }
  std::vector<FileRecord> read() {
    std::vector<FileRecord> records;
    status_ = RecordFile::open(file_, records).status();
    return records;
  }

  TempDir dir_;
  const std::filesystem::path file_ = dir_ / "file";
  absl::Status status_;
};

TEST_F(RecordFileTest, WhatWasAppendedIsReadAgain) {
  const auto records = read();
  ASSERT_EQ(records.size(), 4u) << status_;
  EXPECT_EQ(records[1].bytes, std::string(1000, '\0'));
  EXPECT_EQ(records[3].name, "fourth");
  std::vector<FileRecord> before;
  {
    auto again = RecordFile::open(file_, before);
    ASSERT_TRUE(again.ok());
    ASSERT_TRUE((*again)->append({"fifth", "5"}).ok());
  }
  EXPECT_EQ(read().size(), 5u);
  // A calibration's file has the texts of its users.
  EXPECT_EQ(std::filesystem::status(file_).permissions(), std::filesystem::perms(0600));
}

// Wherever a process is killed while it writes, only the last record is lost, and the next one
// takes its place.
TEST_F(RecordFileTest, AnUnfinishedRecordIsLeftOut) {
  const std::string whole = content(file_);
  for (size_t lost = 1; lost < 36; ++lost) {
    testing::write_file(file_, std::string_view(whole).substr(0, whole.size() - lost));
    std::vector<FileRecord> records;
    auto opened = RecordFile::open(file_, records);
    ASSERT_TRUE(opened.ok()) << lost;
    EXPECT_EQ(records.size(), 3u) << lost;
    ASSERT_TRUE((*opened)->append({"another", ""}).ok());
    EXPECT_EQ(read().back().name, "another") << lost;
  }
}

TEST_F(RecordFileTest, DamageIsFoundAndNeverCrashes) {
  const std::string whole = content(file_);
  std::mt19937 random(3);
  for (int i = 0; i < 100; ++i) {
    std::string damaged = whole;
    const size_t place = random() % damaged.size();
    damaged[place] = static_cast<char>(damaged[place] ^ (1 << random() % 8));
    testing::write_file(file_, damaged);
    const auto records = read();
    EXPECT_LT(records.size(), 4u) << place;
    EXPECT_EQ(records.empty(), absl::IsDataLoss(status_)) << place;
    if (records.empty()) {
      EXPECT_EQ(content(file_), damaged);
    }
  }
  for (const std::string& text : {std::string(), std::string("text"), std::string(5000, '\xff')}) {
    testing::write_file(file_, text);
    EXPECT_TRUE(read().empty());
    EXPECT_THAT(std::string(status_.message()), HasSubstr("file"));
  }
}

TEST_F(RecordFileTest, AFullDiskIsAnErrorAndWhatWasThereStays) {
  std::vector<FileRecord> records;
  auto opened = RecordFile::open(file_, records);
  ASSERT_TRUE(opened.ok());
  {
    const testing::SizeLimit full(content(file_).size() + 30);
    EXPECT_FALSE((*opened)->append({"fifth", std::string(5000, '5')}).ok());
    EXPECT_FALSE(RecordFile::create(file_, {{"new", std::string(5000, 'n')}}).ok());
  }
  EXPECT_FALSE((*opened)->append({"sixth", ""}).ok());  // it would stand behind half a record
  EXPECT_EQ(read().size(), 4u);
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(dir_.path()), {}), 1);
}

}  // namespace
}  // namespace kascade::core
