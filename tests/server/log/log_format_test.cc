// Tests that a record of the log is one line, whatever a request put into it, in both formats.
#include "server/log/log_format.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "server/log/record.h"
#include "spdlog/spdlog.h"
#include "tests/support/captured_log.h"

namespace kascade::testing {
namespace {

using logging::escaped;
using logging::Fields;
using nlohmann::json;
using ::testing::EndsWith;
using ::testing::MatchesRegex;

const std::string kForged = "x\n2026-11-30T00:00:00.000+0000 info forged";

TEST(LogFormat, ControlCharactersAreEscapedAndOthersStay) {
  EXPECT_EQ(escaped("plain äß 你好 🙂 \"\\"), "plain äß 你好 🙂 \"\\");
  EXPECT_EQ(escaped("a\nb\r\tc"), "a\\nb\\x0d\\x09c");
  EXPECT_EQ(escaped("\x1b[31mred\x7f"), "\\x1b[31mred\\x7f");
  EXPECT_EQ(escaped(std::string("\0", 1)), "\\x00");
  EXPECT_EQ(escaped("\u0085 \u009b1m"), "\\xc2\\x85 \\xc2\\x9b1m");
  EXPECT_EQ(escaped("a\u2028b\u2029c"), "a\\xe2\\x80\\xa8b\\xe2\\x80\\xa9c");
  EXPECT_EQ(escaped("\u00a0 \u2026 \xc2"), "\u00a0 \u2026 \xc2");
}

TEST(LogFormat, AMessageIsOneLine) {
  const CapturedLog log(logging::formatter_named("text"));
  spdlog::info("Score ended: {}", kForged);
  EXPECT_THAT(log.text(), EndsWith("Score ended: x\\n2026-11-30T00:00:00.000+0000 info forged\n"));
  EXPECT_THAT(log.text(), MatchesRegex("[0-9T:.+-]+ info Score.*\n"));
}

TEST(LogFormat, FieldsStandBehindTheMessage) {
  const CapturedLog log(logging::formatter_named("text"));
  logging::write(spdlog::level::info, "serving",
                 Fields{{.name = "listen", .value = "[::1]:5"},
                        {.name = "bytes", .value = int64_t{1} << 40},
                        {.name = "share", .value = 0.5},
                        {.name = "file", .value = "a \"b\" \\c\n"},
                        {.name = "none", .value = ""}});
  EXPECT_THAT(log.text(), EndsWith(" info serving listen=[::1]:5 bytes=1099511627776 share=0.5 "
                                   "file=\"a \\\"b\\\" \\\\c\\n\" none=\"\"\n"));
  spdlog::info("next");
  EXPECT_THAT(log.text(), EndsWith(" info next\n"));
}

TEST(LogFormat, AJsonLineHasTimeLevelMessageAndFields) {
  const CapturedLog log(logging::formatter_named("json"));
  logging::write(spdlog::level::warn, "request",
                 Fields{{.name = "rpc", .value = "Score"},
                        {.name = "tokens", .value = int64_t{7}},
                        {.name = "seconds", .value = 0.25}});
  const std::string line = log.text();
  EXPECT_EQ(line.find('\n'), line.size() - 1);
  const json record = json::parse(line);
  EXPECT_THAT(record.at("time").get<std::string>(),
              MatchesRegex("[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:]{8}\\.[0-9]{3}Z"));
  EXPECT_EQ(record.at("level"), "warning");
  EXPECT_EQ(record.at("message"), "request");
  EXPECT_EQ(record.at("rpc"), "Score");
  EXPECT_EQ(record.at("tokens"), 7);
  EXPECT_EQ(record.at("seconds"), 0.25);
}

TEST(LogFormat, AJsonLineIsPrintableAsciiAndNoFieldCanBeForged) {
  const CapturedLog log(logging::formatter_named("json"));
  const std::string bad = kForged + "\",\"level\":\"error\x1b\x7f\u0085\u2028 \xff";
  logging::write(spdlog::level::info, bad, Fields{{.name = "error", .value = bad}});
  std::string line = log.text();
  ASSERT_EQ(line.back(), '\n');
  line.pop_back();
  for (const unsigned char c : line) EXPECT_TRUE(c >= 0x20 && c < 0x7f) << static_cast<int>(c);
  const json record = json::parse(line);
  EXPECT_EQ(record.at("level"), "info");
  EXPECT_EQ(record.size(), 4u);
}

TEST(LogFormat, OnlyTheServerItselfGivesARecordFields) {
  const CapturedLog log(logging::formatter_named("json"));
  spdlog::info("{}", "message\x1e{\"level\":\"error\"}");
  logging::write(spdlog::level::info, "message\x1e{\"level\":\"error\"}", {});
  const std::string text = log.text();
  const size_t end = text.find('\n');
  for (const std::string& line : {text.substr(0, end), text.substr(end + 1)}) {
    const json record = json::parse(line);
    EXPECT_EQ(record.at("level"), "info");
    EXPECT_EQ(record.at("message"), "message\x1e{\"level\":\"error\"}");
  }
}

}  // namespace
}  // namespace kascade::testing
