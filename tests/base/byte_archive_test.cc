// Tests records as bytes: what is read is what was written, and bytes of anything else are refused.
#include "engine/base/byte_archive.h"

#include <cstdint>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace kascade::testing {
namespace {

enum class Colour { kRed, kGreen };

struct Leaf {
  std::string name{};
  std::optional<double> weight{};
  bool operator==(const Leaf&) const = default;
};

struct Tree {
  Colour colour = Colour::kRed;
  bool tall = false;
  int64_t height = 0;
  std::vector<float> rings{};
  std::vector<bool> bare{};
  std::vector<Leaf> leaves{};
  std::vector<std::vector<double>> twigs{};
  bool operator==(const Tree&) const = default;
};

template <typename Visitor, typename Record>
  requires std::same_as<std::remove_const_t<Record>, Leaf>
void visit_fields(Visitor& visit, Record& leaf) {
  visit("name", leaf.name);
  visit.optional("weight", leaf.weight);
}

template <typename Visitor, typename Record>
  requires std::same_as<std::remove_const_t<Record>, Tree>
void visit_fields(Visitor& visit, Record& tree) {
  visit("colour", tree.colour);
  visit("tall", tree.tall);
  visit.unless("height", tree.height, int64_t{0});
  visit("rings", tree.rings);
  visit("bare", tree.bare);
  visit.rows("leaves", tree.leaves);
  visit("twigs", tree.twigs);
}

Tree oak() {
  return {.colour = Colour::kGreen,
          .tall = true,
          .height = -5'000'000'000,
          .rings = {0.1f, -0.0f, 3e38f},
          .bare = {true, false, true},
          .leaves = {{"a", 0.1}, {"", std::nullopt}, {std::string("\0b", 2), 5e-324}},
          .twigs = {{}, {1.5}, {2, 3}}};
}

TEST(ByteArchiveTest, WhatIsReadIsWhatWasWritten) {
  Tree read;
  ASSERT_TRUE(from_bytes(to_bytes(oak()), read));
  EXPECT_EQ(read, oak());
  read = oak();
  ASSERT_TRUE(from_bytes(to_bytes(Tree()), read));  // nothing of the old value stays
  EXPECT_EQ(read, Tree());
}

TEST(ByteArchiveTest, BytesThatEndEarlyOrGoOnAreRefused) {
  const std::string bytes = to_bytes(oak());
  for (size_t size = 0; size < bytes.size(); ++size) {
    Tree read;
    EXPECT_FALSE(from_bytes(bytes.substr(0, size), read)) << size;
  }
  Tree read;
  EXPECT_FALSE(from_bytes(bytes + '\0', read));
}

// Lengths that are damaged promise more than there is.
TEST(ByteArchiveTest, DamagedBytesNeitherCrashNorTakeMemory) {
  std::mt19937 random(1);
  const std::string bytes = to_bytes(oak());
  for (int i = 0; i < 20000; ++i) {
    std::string damaged = bytes;
    for (int j = 0; j < 3; ++j) damaged[random() % damaged.size()] = static_cast<char>(random());
    Tree read;
    from_bytes(damaged, read);
    EXPECT_LE(read.leaves.size() + read.rings.size() + read.twigs.size(), 3 * bytes.size());
  }
}

}  // namespace
}  // namespace kascade::testing
