// Tests that what is logged stays on one line, whatever a request put into it.
#include "server/log_format.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "spdlog/spdlog.h"
#include "tests/support/captured_log.h"

namespace kascade::testing {
namespace {

using server::escaped;
using ::testing::EndsWith;
using ::testing::MatchesRegex;

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
  const CapturedLog log(server::log_formatter());
  spdlog::info("Score ended: {}", "x\n2026-11-30T00:00:00.000+0000 info forged");
  EXPECT_THAT(log.text(), EndsWith("Score ended: x\\n2026-11-30T00:00:00.000+0000 info forged\n"));
  EXPECT_THAT(log.text(), MatchesRegex("[0-9T:.+-]+ info Score.*\n"));
}

}  // namespace
}  // namespace kascade::testing
