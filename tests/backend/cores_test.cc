#include "engine/backend/cpu/cores.h"

#include <filesystem>
#include <fstream>
#include <optional>
#include <string>

#include "gtest/gtest.h"

namespace kascade::cpu {
namespace {

namespace fs = std::filesystem;

TEST(Quota, OfVersion2) {
  EXPECT_EQ(quota_of("200000 100000"), 2.0);
  EXPECT_EQ(quota_of("150000 100000\n"), 1.5);
  EXPECT_EQ(quota_of("1000 100000"), 0.01);
  for (const char* text : {"max 100000", "", "max", "100000", "0 100000", "100000 0", "-1 100000",
                           "-5 -5", "nan 1", "one two"}) {
    EXPECT_EQ(quota_of(text), std::nullopt) << text;
  }
}

TEST(Quota, OfVersion1) {
  EXPECT_EQ(quota_of("400000", "100000"), 4.0);
  EXPECT_EQ(quota_of("-1", "100000"), std::nullopt);
  EXPECT_EQ(quota_of("", ""), std::nullopt);
  EXPECT_EQ(quota_of("100000", ""), std::nullopt);
}

class QuotaUnder : public ::testing::Test {
 protected:
  QuotaUnder() {
    fs::remove_all(root_);
    fs::create_directories(root_);
  }
  ~QuotaUnder() override { fs::remove_all(root_); }
  void write(const std::string& file, const std::string& text) {
    fs::create_directories((root_ / file).parent_path());
    std::ofstream(root_ / file) << text;
  }
  std::optional<double> quota(const std::string& membership) {
    write("membership", membership);
    return quota_under(root_, root_ / "membership");
  }

  const fs::path root_ =
      fs::path(::testing::TempDir()) /
      ("cores_" + std::string(::testing::UnitTest::GetInstance()->current_test_info()->name()));
};

TEST_F(QuotaUnder, AContainersOwnRootCounts) {
  write("cpu.max", "250000 100000\n");
  EXPECT_EQ(quota("0::/\n"), 2.5);
  EXPECT_EQ(quota("0::/../of/the/host\n"), 2.5);  // as some containers see themselves
}

TEST_F(QuotaUnder, TheLeastOfAGroupAndThoseAroundItCounts) {
  write("a/cpu.max", "300000 100000\n");
  write("a/b/cpu.max", "max 100000\n");
  write("a/b/c/cpu.max", "800000 100000\n");
  write("a/other/cpu.max", "100000 100000\n");
  EXPECT_EQ(quota("0::/a/b/c\n"), 3.0);
  EXPECT_EQ(quota("0::/a/other\n"), 1.0);
  EXPECT_EQ(quota("0::/\n"), std::nullopt);
}

TEST_F(QuotaUnder, Version1StandsBesideVersion2) {
  write("cpu/job/cpu.cfs_quota_us", "50000\n");
  write("cpu/job/cpu.cfs_period_us", "100000\n");
  EXPECT_EQ(quota("5:memory:/job\n4:cpuacct,cpu:/job\n0::/\n"), 0.5);
  EXPECT_EQ(quota("5:memory:/job\n4:cpuset:/job\n0::/\n"), std::nullopt);
}

TEST_F(QuotaUnder, WhatIsNotThereIsNoLimit) {
  EXPECT_EQ(quota("0::/gone\n"), std::nullopt);
  EXPECT_EQ(quota("nonsense\n::\n"), std::nullopt);
  EXPECT_EQ(quota_under(root_ / "absent", root_ / "absent"), std::nullopt);
}

TEST(UsableCores, AreAtLeastOneAndAtMostWhatIsAllowed) {
  EXPECT_EQ(usable_cores(1), 1);
  EXPECT_GE(usable_cores(64), 1);
  EXPECT_LE(usable_cores(64), 64);
  EXPECT_EQ(usable_cores(0), 1);
}

}  // namespace
}  // namespace kascade::cpu
