// What users type: escapes and numbers.
#include "client/commands/escapes.h"
#include "client/commands/number_checks.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace kascade::client {
namespace {

using testing::HasSubstr;

TEST(Escapes, StandForWhatTheyName) {
  EXPECT_EQ(without_escapes("plain, ä").value(), "plain, ä");
  EXPECT_EQ(without_escapes(R"(a\n\r\t\\b)").value(), "a\n\r\t\\b");
  EXPECT_EQ(without_escapes(R"(\0)").value(), std::string(1, '\0'));
  EXPECT_EQ(without_escapes(R"(\x41\u00e9\U0001F600)").value(), "Aé😀");
  EXPECT_EQ(without_escapes(R"(\u20AC!)").value(), "€!");
  EXPECT_EQ(without_escapes("").value(), "");
}

TEST(Escapes, OfSeveralBytesMakeOneCharacter) {
  EXPECT_EQ(without_escapes(R"(\xc3\xa9)").value(), "é");
  EXPECT_EQ(without_escapes(R"(\xE2\x82\xAC)").value(), "€");
  EXPECT_EQ(without_escapes(R"(\xf0\x9f\x98\x80)").value(), "😀");
}

TEST(Escapes, ThatAreNoneAreRefused) {
  for (const char* text : {R"(\)", R"(\q)", R"(\x4)", R"(\xg0)", R"(\u12)", R"(\U00110000)",
                           R"(\xc3)", R"(\xa9)", R"(\ud800)", R"(\x-1)", R"(\u 123)"}) {
    EXPECT_FALSE(without_escapes(text).ok()) << text;
  }
  EXPECT_THAT(without_escapes(R"(a\qb)").status().message(), HasSubstr(R"(\q is no escape)"));
}

std::string error_of(const CLI::Validator& check, std::string text) { return check(text); }

TEST(WholeNumber, TakesDigitsBetweenItsEnds) {
  const auto check = whole_number(0, 20);
  for (const char* text : {"0", "20", "+7", "007"}) EXPECT_EQ(error_of(check, text), "") << text;
  for (const char* text : {"-1", "21", "1.5", "1e1", "nan", "", " 3", "3 ", "0x3", "three",
                           "99999999999999999999999"}) {
    EXPECT_THAT(error_of(check, text), HasSubstr("from 0 to 20")) << text;
  }
}

TEST(Number, IsFiniteAndBetweenItsEnds) {
  const auto check = number_between(0, 1e9);
  for (const char* text : {"0", "1e9", "0.5", "+2", "1E3"}) {
    EXPECT_EQ(error_of(check, text), "") << text;
  }
  for (const char* text : {"-1", "-0.1", "nan", "inf", "-inf", "1e400", "2e9", "", "1s", "0x1p3"}) {
    EXPECT_THAT(error_of(check, text), HasSubstr("from 0 to 1000000000")) << text;
  }
}

TEST(UnsignedNumber, IsOneOf64Bits) {
  EXPECT_EQ(unsigned_number("18446744073709551615"), "");
  for (const char* text : {"18446744073709551616", "-1", "1.0", "nan", ""}) {
    EXPECT_NE(unsigned_number(text), "") << text;
  }
}

TEST(CheckNumbers, CoversTheOptionsOfAllCommands) {
  CLI::App app;
  double global = 0;
  int32_t count = 0;
  app.add_option("--global", global);
  CLI::App* command = app.add_subcommand("command");
  command->add_option("--count", count);
  check_numbers(app);
  for (const char* line :
       {"--global nan", "--global inf", "command --count 2147483648", "command --count 1.5"}) {
    EXPECT_THROW(app.parse(line), CLI::ValidationError) << line;
  }
  app.parse("--global 1e-3 command --count -5");
  EXPECT_EQ(count, -5);
  EXPECT_EQ(global, 1e-3);
}

}  // namespace
}  // namespace kascade::client
