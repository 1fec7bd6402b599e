// Tests the GGUF container: every type of value, the positions of tensors, and each kind of damage.
#include "tools/convert/gguf_file.h"

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/gguf_writer.h"
#include "tests/support/shared_data.h"

namespace kascade::convert {
namespace {

using ::testing::AnyOf;
using ::testing::ElementsAre;
using testing::GgufWriter;
using ::testing::HasSubstr;
using testing::raw_bytes;

absl::StatusOr<GgufFile> parse(const std::string& bytes) {
  return GgufFile::parse(std::as_bytes(std::span(bytes)), "x.gguf");
}
std::string error_of(const std::string& bytes) {
  const auto file = parse(bytes);
  return file.ok() ? "accepted" : file.status().ToString();
}
std::string error_of(const GgufWriter& writer) { return error_of(writer.file()); }

// One value of every type and three tensors: F32 2 x 3, Q8_0 2 x 32, a type that is not read.
GgufWriter writer() {
  GgufWriter writer;
  writer.set_raw("u8", 0, raw_bytes(uint8_t{200}))
      .set_raw("i8", 1, raw_bytes(int8_t{-3}))
      .set_raw("u16", 2, raw_bytes(uint16_t{60000}))
      .set_raw("i16", 3, raw_bytes(int16_t{-300}))
      .set("u32", 4000000000u)
      .set_raw("i32", 5, raw_bytes(int32_t{-70000}))
      .set("f32", 1e-6f)
      .set("true", true)
      .set("false", false)
      .set("text", "hello")
      .set("texts", std::vector<std::string>{"a", "", "\xff"})
      .set("floats", std::vector<float>{0.1f, -2})
      .set("ints", std::vector<int32_t>{7, -8})
      .set("none", std::vector<int32_t>{})
      .set_raw("u64", 10, raw_bytes(uint64_t{1} << 40))
      .set_raw("big", 10, raw_bytes(~uint64_t{0}))
      .set_raw("i64", 11, raw_bytes(int64_t{-5}))
      .set_raw("f64", 12, raw_bytes(0.25));
  std::string floats;
  for (int i = 0; i < 6; ++i) floats += raw_bytes(static_cast<float>(i));
  writer.tensor({"f", {3, 2}, 0, floats})
      .tensor({"q", {32, 2}, 8, std::string(68, 'q')})
      .tensor({"iq", {256}, 20, std::string(10, 'z')});
  return writer;
}

TEST(GgufFile, ReadsEveryTypeOfValue) {
  const std::string bytes = writer().file();
  const auto file = parse(bytes);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(file->version(), 3u);
  const auto value = [&](const char* key) { return *file->find(key); };
  EXPECT_EQ(value("u8").integer(), 200);
  EXPECT_EQ(value("i8").integer(), -3);
  EXPECT_EQ(value("u16").integer(), 60000);
  EXPECT_EQ(value("i16").integer(), -300);
  EXPECT_EQ(value("u32").integer(), 4000000000);
  EXPECT_EQ(value("i32").integer(), -70000);
  EXPECT_EQ(value("u64").integer(), int64_t{1} << 40);
  EXPECT_EQ(value("big").integer(), std::nullopt);
  EXPECT_EQ(value("big").shown(), "18446744073709551615");
  EXPECT_EQ(value("i64").integer(), -5);
  EXPECT_EQ(value("f32").number(), 1e-6);  // not 9.999999974752427e-07
  EXPECT_EQ(value("f32").integer(), std::nullopt);
  EXPECT_EQ(value("f64").number(), 0.25);
  EXPECT_EQ(value("u8").number(), std::nullopt);
  EXPECT_EQ(value("true").boolean(), true);
  EXPECT_EQ(value("false").boolean(), false);
  EXPECT_EQ(value("u8").boolean(), std::nullopt);
  EXPECT_EQ(value("text").text(), "hello");
  EXPECT_EQ(value("texts").text(), std::nullopt);
  EXPECT_EQ(file->find("absent"), nullptr);
}

TEST(GgufFile, ReadsArrays) {
  const std::string bytes = writer().file();
  const auto file = parse(bytes);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_THAT(*file->find("texts")->texts(), ElementsAre("a", "", "\xff"));
  EXPECT_TRUE(file->find("texts")->is_array());
  EXPECT_EQ(file->find("floats")->count(), 2);
  EXPECT_EQ(file->find("floats")->number(0), 0.1);
  EXPECT_EQ(file->find("floats")->number(1), -2);
  EXPECT_EQ(file->find("ints")->integer(1), -8);
  EXPECT_EQ(file->find("none")->count(), 0);
  EXPECT_EQ(file->find("ints")->texts(), std::nullopt);
  EXPECT_EQ(file->find("ints")->shown(), "an array of 2");
}

TEST(GgufFile, FindsTheTensors) {
  const std::string bytes = writer().file();
  const auto file = parse(bytes);
  ASSERT_TRUE(file.ok()) << file.status();
  ASSERT_EQ(file->tensors().size(), 3u);
  const GgufTensor& floats = file->tensors()[0];
  EXPECT_EQ(floats.name, "f");
  EXPECT_THAT(floats.dimensions, ElementsAre(3, 2));
  EXPECT_EQ(floats.bytes, 24);
  EXPECT_EQ(std::to_integer<int>(floats.data[23]), 0x40);  // of 5.0f
  EXPECT_EQ(file->tensors()[1].bytes, 68);
  EXPECT_EQ(std::to_integer<char>(file->tensors()[1].data[67]), 'q');
  EXPECT_EQ(file->tensors()[2].type, 20u);
  EXPECT_EQ(file->tensors()[2].bytes, 0);
}

TEST(GgufFile, ReadsVersion2AndOtherAlignments) {
  EXPECT_EQ(error_of(writer().version(2)), "accepted");
  EXPECT_EQ(error_of(writer().set("general.alignment", 64u).alignment(64)), "accepted");
  EXPECT_EQ(error_of(writer().set("general.alignment", 8u).alignment(8)), "accepted");
  for (const uint32_t alignment : {0u, 4u, 24u, 1u << 21}) {
    EXPECT_THAT(error_of(writer().set("general.alignment", alignment)),
                HasSubstr(absl::StrCat("x.gguf: general.alignment: expected a power of two in "
                                       "8..1048576, found ",
                                       alignment)));
  }
  EXPECT_THAT(error_of(writer().set("general.alignment", "32")),
              HasSubstr("general.alignment: expected a power of two in 8..1048576, found \"32\""));
}

TEST(GgufFile, RefusesOtherFilesAndVersions) {
  EXPECT_THAT(error_of("GGML" + writer().file().substr(4)),
              HasSubstr("INVALID_ARGUMENT: x.gguf: does not begin with GGUF"));
  EXPECT_THAT(error_of("FUGG" + writer().file().substr(4)), HasSubstr("is a big-endian GGUF"));
  EXPECT_THAT(error_of(writer().version(1)),
              HasSubstr("UNIMPLEMENTED: x.gguf: only versions 2 and 3 of GGUF are read, found "
                        "version 1"));
  EXPECT_THAT(error_of(writer().version(4)), HasSubstr("found version 4"));
  EXPECT_THAT(error_of(writer().version(3u << 24)),
              HasSubstr("UNIMPLEMENTED: x.gguf: is a big-endian GGUF file"));
}

TEST(GgufFile, ACutFileIsAnError) {
  const std::string bytes = writer().file();
  const auto whole = parse(bytes);
  ASSERT_TRUE(whole.ok());
  // All of the last tensor's bytes count only where its type is known.
  const auto needed = static_cast<size_t>(reinterpret_cast<const char*>(whole->tensors()[2].data) -
                                          bytes.data() + 1);
  for (size_t length = 0; length < needed; ++length) {
    // A copy of its own, so that a sanitizer sees a read behind the end.
    const std::vector<std::byte> cut(
        std::as_bytes(std::span(bytes)).begin(),
        std::as_bytes(std::span(bytes)).begin() + static_cast<std::ptrdiff_t>(length));
    const auto file = GgufFile::parse(cut, "x.gguf");
    ASSERT_FALSE(file.ok()) << length;
    ASSERT_THAT(file.status().ToString(),
                AnyOf(HasSubstr("is the file cut short?"), HasSubstr("that ends in the file")))
        << length;
  }
}

TEST(GgufFile, RefusesDamagedMetadata) {
  EXPECT_THAT(error_of(writer().repeat("u8")), HasSubstr("metadata \"u8\": is there twice"));
  EXPECT_THAT(error_of(writer().set_raw("k", 13, "")),
              HasSubstr("metadata \"k\": expected a value type in 0..12, found 13"));
  const auto array = [](uint32_t type, uint64_t count) {
    return writer().set_raw("k", 9, raw_bytes(type) + raw_bytes(count));
  };
  EXPECT_THAT(error_of(array(9, 1)),
              HasSubstr("UNIMPLEMENTED: x.gguf: metadata \"k\": arrays of arrays are not read"));
  EXPECT_THAT(error_of(array(77, 1)), HasSubstr("expected a value type in 0..12, found 77"));
  EXPECT_THAT(error_of(array(12, uint64_t{1} << 61)),
              HasSubstr("expected an array that ends in the file, found 2305843009213693952"));
  EXPECT_THAT(error_of(writer().set_raw("k", 8, raw_bytes(~uint64_t{0}))),
              HasSubstr("expected a string of at most 16777216 bytes, found 18446744073709551615"));
  EXPECT_THAT(error_of(writer().set(std::string(65536, 'k'), 1u)),
              HasSubstr("metadata 19 of 19: expected a string of at most 65535 bytes"));
}

TEST(GgufFile, RefusesTooManyOfAThing) {
  std::string bytes = writer().file();
  bytes.replace(8, 8, raw_bytes(uint64_t{65537}));
  EXPECT_THAT(error_of(bytes), HasSubstr("expected at most 65536 tensors, found 65537"));
  bytes = writer().file();
  bytes.replace(16, 8, raw_bytes(~uint64_t{0}));
  EXPECT_THAT(error_of(bytes), HasSubstr("expected at most 65536 metadata keys, found 1844"));
}

TEST(GgufFile, RefusesTensorsThatCannotBe) {
  const auto with = [](std::vector<uint64_t> dimensions, uint32_t type = 0) {
    return error_of(writer().tensor({"t", std::move(dimensions), type, std::string(64, '\0')}));
  };
  EXPECT_EQ(with({2, 2, 2, 2}), "accepted");
  EXPECT_THAT(with({}), HasSubstr("tensor \"t\": expected 1..4 dimensions, found 0"));
  EXPECT_THAT(with({1, 1, 1, 1, 1}), HasSubstr("expected 1..4 dimensions, found 5"));
  EXPECT_THAT(with({0}), HasSubstr("expected dimensions in 1..2^63"));
  EXPECT_THAT(with({~uint64_t{0}}), HasSubstr("expected dimensions in 1..2^63"));
  EXPECT_THAT(with({uint64_t{1} << 40, uint64_t{1} << 40}), HasSubstr("more than 2^63 elements"));
  EXPECT_THAT(with({uint64_t{1} << 62}), HasSubstr("more than 2^63 bytes"));
  EXPECT_THAT(with({33}, 8),
              HasSubstr("expected rows of a multiple of 32 elements for Q8_0, found 33"));
  EXPECT_THAT(with({17}), HasSubstr("expected 68 bytes at offset 160, found 64 before the end"));
  EXPECT_THAT(error_of(writer().tensor({"f", {1}, 0, "1234"})),
              HasSubstr("tensor \"f\": is there twice"));
  EXPECT_THAT(error_of(writer().tensor({std::string(65, 'n'), {1}, 0, "1234"})),
              HasSubstr("tensor 4 of 4: expected a string of at most 64 bytes, found 65"));
}

TEST(GgufFile, RefusesOffsetsThatCannotBe) {
  const auto at = [](uint64_t offset) {
    return error_of(writer().tensor({"t", {4}, 0, std::string(16, 't'), offset}));
  };
  EXPECT_EQ(at(160), "accepted");
  EXPECT_THAT(at(161), HasSubstr("tensor \"t\": expected an offset that 32 divides, found 161"));
  EXPECT_THAT(at(0), HasSubstr("overlaps tensor"));
  EXPECT_THAT(at(64), HasSubstr("tensor \"t\": overlaps tensor \"q\""));
  EXPECT_THAT(at(192), HasSubstr("expected 16 bytes at offset 192, found 0 before the end"));
  EXPECT_THAT(at(~uint64_t{31}), HasSubstr("found 0 before the end"));
}

TEST(GgufFile, StrangeNamesAreShownInOneLine) {
  EXPECT_THAT(error_of(writer().set_raw("a\n\xff\x01", 13, "")),
              HasSubstr("metadata \"a\\n\\ufffd\\u0001\": expected a value type"));
}

TEST(GgufFile, ReadsPublishedFiles) {
  KASCADE_NEEDS_DATA("tokenizers/gpt2");
  const std::string bytes =
      testing::read_file(testing::shared_data() / "tokenizers/gpt2/ggml-vocab-gpt-2.gguf");
  const auto file = parse(bytes);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(file->find("tokenizer.ggml.tokens")->count(), 50257);
  EXPECT_EQ(file->find("tokenizer.ggml.merges")->texts()->back(), "\u0120g azed");
  EXPECT_TRUE(file->tensors().empty());
}

}  // namespace
}  // namespace kascade::convert
