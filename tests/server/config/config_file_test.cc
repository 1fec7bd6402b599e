// Tests which files --config takes, and how it refuses others.
#include "server/config_file.h"

#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/tiny_model.h"

namespace kascade::testing {
namespace {

using server::nearest_name;
using server::read_config_file;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::StartsWith;

class ConfigFileTest : public ::testing::Test {
 protected:
  std::string error_of(const std::string& name, const std::string& text) {
    write_file(dir_ / name, text);
    const auto entries = read_config_file(dir_ / name);
    EXPECT_FALSE(entries.ok()) << text;
    return std::string(entries.status().message());
  }
  std::string path(const std::string& name) const { return (dir_ / name).string(); }

  const TempDir dir_{};
};

TEST_F(ConfigFileTest, BothFormsGiveTheSameEntries) {
  write_file(dir_ / "a.yml", "a-b: 1\n# c\nd: \"x: y\"\ne: ''\nf: on\n");
  write_file(dir_ / "a.conf", "a-b=1\n# c\nd = \"x: y\"\ne=\"\"\nf=on\n");
  for (const char* name : {"a.yml", "a.conf"}) {
    const auto entries = read_config_file(dir_ / name);
    ASSERT_TRUE(entries.ok()) << entries.status();
    std::vector<std::string> lines;
    for (const auto& entry : *entries) {
      lines.push_back(entry.name + "|" + entry.value + "|" + entry.place);
    }
    EXPECT_THAT(lines,
                ::testing::ElementsAre("a-b|1|" + path(name) + ":1", "d|x: y|" + path(name) + ":3",
                                       "e||" + path(name) + ":4", "f|on|" + path(name) + ":5"));
  }
  write_file(dir_ / "empty.yaml", "# nothing\n");
  EXPECT_TRUE(read_config_file(dir_ / "empty.yaml").value().empty());
}

TEST_F(ConfigFileTest, WrongYamlIsToldWithItsLine) {
  EXPECT_THAT(error_of("x.yaml", "a: 1\nb: [\n"), StartsWith(path("x.yaml") + ":"));
  EXPECT_THAT(error_of("x.yaml", "a: 1\nb:\n  c: 2\n"),
              AllOf(StartsWith(path("x.yaml") + ":2: b: expected one value"),
                    HasSubstr("a list or a mapping")));
  EXPECT_THAT(error_of("x.yaml", "a: [1, 2]\n"), HasSubstr(":1: a: expected one value"));
  EXPECT_THAT(error_of("x.yaml", "a:\n"), HasSubstr(":1: a: expected one value, found none"));
  EXPECT_THAT(error_of("x.yaml", "- a\n"), HasSubstr("expected a mapping"));
  EXPECT_THAT(error_of("x.yaml", "? [a]\n: 1\n"), HasSubstr("expected the name of an option"));
  EXPECT_THAT(error_of("x.yaml", "a: 1\nb: 2\na: 3\n"), HasSubstr(":3: a: occurs twice"));
  EXPECT_THAT(error_of("x.yaml", "a: 1\n---\nb: 2\n"), HasSubstr("more than one YAML document"));
  EXPECT_FALSE(error_of("x.yaml", std::string(100'000, '[')).empty());
}

TEST_F(ConfigFileTest, WrongTomlIsTold) {
  EXPECT_THAT(error_of("x.toml", "[server]\na=1\n"), HasSubstr("has a section, [server]"));
  EXPECT_THAT(error_of("x.toml", "aaa=1\nbbb=2\naaa=3\n"), HasSubstr("aaa: occurs twice"));
  EXPECT_THAT(error_of("x.toml", "\naaa=[1,2]\n"), HasSubstr(":2: aaa: expected one value"));
}

TEST_F(ConfigFileTest, AFileThatCannotBeReadIsTold) {
  EXPECT_EQ(read_config_file(dir_ / "none.yaml").status().message(),
            path("none.yaml") + ": cannot be read");
  EXPECT_EQ(read_config_file(dir_.path()).status().message(),
            dir_.path().string() + ": is a folder");
  EXPECT_THAT(error_of("x.yaml", std::string((size_t{1} << 20) + 1, '#')),
              HasSubstr("is larger than 1048576 bytes"));
}

TEST(NearestName, IsOneThatCanBeMeant) {
  const std::vector<std::string> names = {"max-queue", "max-queued-tokens", "threads", "log-level"};
  EXPECT_EQ(nearest_name("max-queu", names), "max-queue");
  EXPECT_EQ(nearest_name("max_queue", names), "max-queue");
  EXPECT_EQ(nearest_name("thread", names), "threads");
  EXPECT_EQ(nearest_name("log-levle", names), "log-level");
  EXPECT_EQ(nearest_name("colour", names), "");
  EXPECT_EQ(nearest_name("", names), "");
  EXPECT_EQ(nearest_name(std::string(1000, 'x'), names), "");
}

}  // namespace
}  // namespace kascade::testing
