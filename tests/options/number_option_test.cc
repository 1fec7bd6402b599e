// Tests the numbers of command lines: what is a number, and the words for what is none.
#include "tools/options/number_option.h"

#include <cmath>
#include <limits>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace kascade::options {
namespace {

using ::testing::HasSubstr;

TEST(NumberOption, WholeNumbers) {
  EXPECT_EQ(parse_whole("0", 0, 5), 0);
  EXPECT_EQ(parse_whole("+5", 0, 5), 5);
  EXPECT_EQ(parse_whole("-9223372036854775808", INT64_MIN, INT64_MAX), INT64_MIN);
  EXPECT_EQ(parse_whole("9223372036854775807", INT64_MIN, INT64_MAX), INT64_MAX);
  for (const char* text : {"", "-", "+", "+-1", "6", "-1", "1.0", "1e0", "0x1", " 1", "1 ", "1a",
                           "nan", "9223372036854775808", "18446744073709551617", "1_000"}) {
    EXPECT_FALSE(parse_whole(text, 0, 5).has_value()) << text;
  }
}

TEST(NumberOption, Numbers) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  EXPECT_EQ(parse_number("1.5", 0, 2), 1.5);
  EXPECT_EQ(parse_number("+2e0", 0, 2), 2);
  EXPECT_EQ(parse_number("1e-3", 0, 2), 1e-3);
  for (const char* text : {"", ".", "nan", "NaN", "-nan", "inf", "-inf", "infinity", "1e309",
                           "-1e309", "2.1", "-0.1", "1.5x", "1,5", " 1", "0x1p0", "+-1"}) {
    EXPECT_FALSE(parse_number(text, 0, 2).has_value()) << text;
    EXPECT_TRUE(std::string(text).find("e309") == std::string::npos ||
                !parse_number(text, -kInfinity, kInfinity).has_value())
        << text;
  }
  EXPECT_FALSE(parse_number("inf", 0, kInfinity).has_value());
}

TEST(NumberOption, Bytes) {
  const Units& units = storage_units();
  EXPECT_EQ(parse_bytes("2GB", units, 1, INT64_MAX), 2'000'000'000);
  EXPECT_EQ(parse_bytes("1 GiB", units, 1, INT64_MAX), 1 << 30);
  EXPECT_EQ(parse_bytes("500mb", units, 1, INT64_MAX), 500'000'000);
  EXPECT_EQ(parse_bytes("7", units, 1, INT64_MAX), 7);
  EXPECT_EQ(parse_bytes("3K", units, 1, INT64_MAX), 3000);
  for (const char* text : {"0", "-1", "-1GB", "GB", "1.5GB", "1e9", "9999999999999999999",
                           "10000000TiB", "1GB2", "1 G B", "nan", "inf", "1XB", ""}) {
    EXPECT_FALSE(parse_bytes(text, units, 1, INT64_MAX).has_value()) << text;
  }
}

std::string fault_of(const std::string& option, const std::string& text) {
  CLI::App app;
  int32_t whole = 3;
  double number = 0.5;
  int64_t bytes = 1;
  add_whole(app, "--whole", whole, 1, 9, "");
  add_number(app, "--number", number, 0, 1e300, "");
  add_bytes(app, "--bytes", bytes, binary_units(), 1, INT64_MAX, "");
  try {
    app.parse(option + "=" + text);
  } catch (const CLI::ParseError& error) {
    return error.what();
  }
  return "accepted";
}

TEST(NumberOption, MessagesNameTheRange) {
  EXPECT_EQ(fault_of("--whole", "12"),
            "--whole: expected a whole number from 1 to 9, found \"12\"");
  EXPECT_EQ(fault_of("--number", "-1"),
            "--number: expected a number from 0 to 1e+300, found \"-1\"");
  EXPECT_EQ(fault_of("--bytes", "1TB"),
            "--bytes: expected bytes, or a whole number with a unit (GiB, KiB, MiB), from 1 to "
            "9223372036854775807, found \"1TB\"");
  EXPECT_LT(fault_of("--whole", std::string(100'000, '9')).size(), 200u);
  EXPECT_EQ(fault_of("--whole", "9"), "accepted");
  EXPECT_THAT(fault_of("--number", "nan"), HasSubstr("found \"nan\""));
}

}  // namespace
}  // namespace kascade::options
