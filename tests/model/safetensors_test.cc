// Tests damaged and hostile safetensors: they must give a Status that names the fault, never a
// crash or a view outside the file.
#include "engine/model/safetensors.h"

#include <sys/stat.h>

#include <cstring>
#include <fstream>
#include <random>

#include "engine/model/checkpoint.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/tiny_model.h"

namespace kascade {
namespace {

using nlohmann::json;
using ::testing::AnyOf;
using ::testing::HasSubstr;
using testing::safetensors_bytes;
using testing::TempDir;
using testing::TinyModel;
using testing::write_file;

std::string error_of(const absl::StatusOr<std::unique_ptr<Safetensors>>& result) {
  return result.ok() ? "accepted" : std::string(result.status().message());
}

std::string error_of(const std::string& content) {
  TempDir dir;
  write_file(dir / "file", content);
  return error_of(Safetensors::open_file(dir / "file"));
}

// A file of 32 bytes of data with this header.
std::string with_header(const std::string& header) {
  std::string padded = header;
  padded.resize((padded.size() + 7) / 8 * 8, ' ');
  return safetensors_bytes(padded, std::string(32, 'x'));
}

// The same with one F32 tensor "t" described by this.
std::string with_tensor(const std::string& description) {
  return with_header("{\"t\":" + description + "}");
}

TEST(Safetensors, ReadsWhatItShould) {
  TempDir dir;
  write_file(dir / "file", with_header(R"({
    "__metadata__": {"format": "pt", "deep": {"is": ["ignored"]}},
    "b": {"dtype": "F32", "shape": [2, 3], "data_offsets": [8, 32]},
    "a": {"dtype": "I64", "shape": [], "data_offsets": [0, 8]},
    "none": {"dtype": "F32", "shape": [0, 7], "data_offsets": [8, 8]}})"));
  const auto file = Safetensors::open_file(dir / "file");
  ASSERT_TRUE(file.ok()) << file.status();
  const auto& tensors = (*file)->tensors();
  ASSERT_EQ(tensors.size(), 3u);
  EXPECT_EQ(tensors.at("b").shape, (std::vector<int64_t>{2, 3}));
  EXPECT_EQ(tensors.at("b").bytes, 24);
  EXPECT_EQ(tensors.at("b").data, tensors.at("a").data + 8);
  EXPECT_EQ(tensors.at("a").dtype, "I64");
  EXPECT_EQ(tensors.at("none").bytes, 0);
  EXPECT_EQ((*file)->mapped_bytes(),
            static_cast<int64_t>(std::filesystem::file_size(dir / "file")));
}

// Pages of the mapping of `file` that this process holds in memory.
int64_t resident_kib(const std::string& file) {
  std::ifstream maps("/proc/self/smaps");
  bool inside = false;
  for (std::string line; std::getline(maps, line);) {
    if (line.find('-') < line.find(' ')) inside = line.ends_with(file);
    if (inside && line.starts_with("Rss:")) return std::stoll(line.substr(4));
  }
  return -1;
}

TEST(Safetensors, ReleasedMemoryIsReadAgain) {
  constexpr int64_t kBytes = 4 << 20;
  std::string data(kBytes, '\0');
  for (size_t i = 0; i < data.size(); ++i) data[i] = static_cast<char>(i * 7919 >> 8);
  std::string header =
      R"({"t": {"dtype": "F32", "shape": [1048576], "data_offsets": [0, 4194304]}})";
  header.resize((header.size() + 7) / 8 * 8, ' ');
  TempDir dir;
  write_file(dir / "file", safetensors_bytes(header, data));
  const auto file = Safetensors::open_file(dir / "file");
  ASSERT_TRUE(file.ok()) << file.status();
  const StoredTensor& tensor = (*file)->tensors().at("t");
  ASSERT_EQ(std::memcmp(tensor.data, data.data(), data.size()), 0);
  EXPECT_GE(resident_kib(dir / "file"), kBytes / 1024);
  (*file)->release(tensor.data, tensor.bytes);
  EXPECT_LE(resident_kib(dir / "file"), 64);
  EXPECT_EQ(std::memcmp(tensor.data, data.data(), data.size()), 0);
  // Not its own memory, and not all its own.
  const std::string before = data;
  (*file)->release(data.data(), kBytes);
  (*file)->release(tensor.data, kBytes + 1);
  EXPECT_EQ(data, before);
  EXPECT_GE(resident_kib(dir / "file"), kBytes / 1024);
}

TEST(Safetensors, UnknownDtypesAreListed) {
  TempDir dir;
  write_file(dir / "file", with_tensor(R"({"dtype":"F4","shape":[64],"data_offsets":[0,32]})"));
  const auto file = Safetensors::open_file(dir / "file");
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ((*file)->tensors().at("t").dtype, "F4");
}

TEST(Safetensors, WhatIsNotAFileOfTensors) {
  TempDir dir;
  EXPECT_EQ(Safetensors::open_file(dir / "none").status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(Safetensors::open_folder(dir.path()).status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(error_of(Safetensors::open_folder(dir.path())), HasSubstr("found neither"));
  EXPECT_THAT(error_of(Safetensors::open_file(dir.path())), HasSubstr("not a regular file"));
  ASSERT_EQ(mkfifo((dir / "model.safetensors").c_str(), 0600), 0);
  EXPECT_THAT(error_of(Safetensors::open_folder(dir.path())), HasSubstr("not a regular file"));
  EXPECT_THAT(error_of(Safetensors::open_file("/dev/zero")), HasSubstr("not a regular file"));
  EXPECT_THAT(error_of(std::string()), HasSubstr("is empty"));
  EXPECT_THAT(error_of(std::string("1234567")), HasSubstr("too short for safetensors: 7 bytes"));
  EXPECT_THAT(error_of(std::string(8, '\0')), HasSubstr("not valid JSON"));
  EXPECT_THAT(error_of("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"),
              HasSubstr("no safetensors file, or its download is incomplete"));
}

TEST(Safetensors, HeaderLengthLies) {
  const std::string good = with_tensor(R"({"dtype":"F32","shape":[8],"data_offsets":[0,32]})");
  ASSERT_EQ(error_of(good), "accepted");
  const uint64_t length = good.size() - 32 - 8;
  for (const uint64_t lie : {uint64_t{0}, uint64_t{1}, length - 1, length + 1, length + 32,
                             length + 33, uint64_t{100 << 20}, uint64_t{1} << 31, uint64_t{1} << 32,
                             uint64_t{1} << 63, ~uint64_t{0}, ~uint64_t{0} - 7}) {
    std::string bad = good;
    bad.replace(0, 8, reinterpret_cast<const char*>(&lie), 8);
    EXPECT_NE(error_of(bad), "accepted") << lie;
  }
}

TEST(Safetensors, BadDescriptions) {
  const std::pair<const char*, const char*> bad[] = {
      {"3", "described by an object"},
      {"[]", "described by an object"},
      {"{}", "dtype must be a string"},
      {R"({"dtype":4,"shape":[8],"data_offsets":[0,32]})", "dtype must be a string"},
      {R"({"dtype":"F32","data_offsets":[0,32]})", "shape must be a list"},
      {R"({"dtype":"F32","shape":8,"data_offsets":[0,32]})", "shape must be a list"},
      {R"({"dtype":"F32","shape":[1,1,1,1,1,1,1,1,8],"data_offsets":[0,32]})", "at most 8 sizes"},
      {R"({"dtype":"F32","shape":[-8],"data_offsets":[0,32]})", "found -8"},
      {R"({"dtype":"F32","shape":[-2,-4],"data_offsets":[0,32]})", "found -2"},
      {R"({"dtype":"F32","shape":[8.0],"data_offsets":[0,32]})", "found 8.0"},
      {R"({"dtype":"F32","shape":["8"],"data_offsets":[0,32]})", "found \"8\""},
      {R"({"dtype":"F32","shape":[[8]],"data_offsets":[0,32]})", "found [8]"},
      {R"({"dtype":"F32","shape":[18446744073709551615],"data_offsets":[0,32]})", "found 1844"},
      {R"({"dtype":"F32","shape":[4611686018427387904],"data_offsets":[0,32]})", "overflows"},
      {R"({"dtype":"F32","shape":[4611686018427387912],"data_offsets":[0,32]})", "overflows"},
      {R"({"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]})", "overflows"},
      {R"({"dtype":"F32","shape":[7],"data_offsets":[0,32]})", "expected 28 bytes"},
      {R"({"dtype":"BF16","shape":[8],"data_offsets":[0,32]})", "expected 16 bytes"},
      {R"({"dtype":"F32","shape":[8]})", "data_offsets must be a list"},
      {R"({"dtype":"F32","shape":[8],"data_offsets":[0]})", "data_offsets must be a list"},
      {R"({"dtype":"F32","shape":[8],"data_offsets":[0,32,64]})", "data_offsets must be a list"},
      {R"({"dtype":"F32","shape":[8],"data_offsets":{"0":0}})", "data_offsets must be a list"},
      {R"({"dtype":"F32","shape":[8],"data_offsets":[0,36]})", "found [0,36]"},
      {R"({"dtype":"F32","shape":[8],"data_offsets":[32,0]})", "found [32,0]"},
      {R"({"dtype":"F32","shape":[8],"data_offsets":[-32,0]})", "found [-32,0]"},
      {R"({"dtype":"F32","shape":[8],"data_offsets":[0.0,32.0]})", "found [0.0,32.0]"},
      {R"({"dtype":"F32","shape":[8],"data_offsets":["0","32"]})", "data_offsets must be a range"},
      {R"({"dtype":"F32","shape":[8],"data_offsets":[18446744073709551584,32]})", "range in 0..32"},
      {R"({"dtype":"F32","shape":[8],"data_offsets":[9223372036854775807,9223372036854775807]})",
       "range in 0..32"},
      {R"({"dtype":"XX","shape":[8],"data_offsets":[0,64]})", "range in 0..32"},
  };
  for (const auto& [description, message] : bad) {
    EXPECT_THAT(error_of(with_tensor(description)), HasSubstr(message)) << description;
    EXPECT_THAT(error_of(with_tensor(description)), HasSubstr("tensor \"t\"")) << description;
  }
}

TEST(Safetensors, TensorsFillTheFileExactly) {
  const auto two = [](int64_t a, int64_t b, int64_t c, int64_t d) {
    return error_of(
        with_header(json{{"a", {{"dtype", "U8"}, {"shape", {b - a}}, {"data_offsets", {a, b}}}},
                         {"b", {{"dtype", "U8"}, {"shape", {d - c}}, {"data_offsets", {c, d}}}}}
                        .dump()));
  };
  EXPECT_EQ(two(0, 16, 16, 32), "accepted");
  EXPECT_EQ(two(20, 32, 0, 20), "accepted");
  EXPECT_THAT(two(0, 16, 15, 32), HasSubstr("tensor \"b\": expected to begin at 16"));
  EXPECT_THAT(two(0, 32, 0, 32), HasSubstr("overlaps"));
  EXPECT_THAT(two(0, 32, 8, 16), HasSubstr("overlaps"));
  EXPECT_THAT(two(0, 16, 17, 32), HasSubstr("expected to begin at 16"));
  EXPECT_THAT(two(0, 16, 16, 31), HasSubstr("expected 31 bytes after the header, found 32"));
  EXPECT_THAT(two(1, 16, 16, 32), HasSubstr("expected to begin at 0"));
}

// The format asks for no padding of the header, and MLX writes none.
TEST(Safetensors, DataMayBeginAnywhere) {
  const std::string header = R"({"a":{"dtype":"F32","shape":[6],"data_offsets":[0,24]},)"
                             R"("b":{"dtype":"U8","shape":[1],"data_offsets":[24,25]},)"
                             R"("c":{"dtype":"BF16","shape":[2],"data_offsets":[25,29]},)"
                             R"("d":{"dtype":"F64","shape":[1],"data_offsets":[29,37]}})";
  std::string data;
  for (char c = 0; c < 37; ++c) data += static_cast<char>('A' + c);
  for (size_t padding = 0; padding < 8; ++padding) {
    TempDir dir;
    write_file(dir / "file", safetensors_bytes(header + std::string(padding, ' '), data));
    const auto file = Safetensors::open_file(dir / "file");
    ASSERT_TRUE(file.ok()) << file.status();
    std::string all;
    for (const auto& [name, tensor] : (*file)->tensors()) {
      const uintptr_t unit = name == "a" ? 4 : name == "c" ? 2 : name == "d" ? 8 : 1;
      EXPECT_EQ(reinterpret_cast<uintptr_t>(tensor.data) % unit, 0u) << name << padding;
      all.append(reinterpret_cast<const char*>(tensor.data), static_cast<size_t>(tensor.bytes));
      (*file)->release(tensor.data, tensor.bytes);
      EXPECT_EQ(all.substr(all.size() - static_cast<size_t>(tensor.bytes)),
                std::string(reinterpret_cast<const char*>(tensor.data),
                            static_cast<size_t>(tensor.bytes)));
    }
    EXPECT_EQ(all, data);
  }
}

TEST(Safetensors, HostileJson) {
  const std::string tensor = R"({"dtype":"F32","shape":[8],"data_offsets":[0,32]})";
  EXPECT_THAT(error_of(with_header("{\"t\":" + tensor + ",\"t\":" + tensor + "}")),
              HasSubstr("same key twice, key \"t\""));
  EXPECT_THAT(error_of(with_header("{\"t\":" + std::string(5000000, '['))), HasSubstr("deeper"));
  std::string objects = "{\"__metadata__\":";
  for (int i = 0; i < 500000; ++i) objects += "{\"a\":";
  EXPECT_THAT(error_of(with_header(objects)), HasSubstr("deeper"));
  std::string wide = "{\"__metadata__\":[0";
  for (int i = 0; i < 1100000; ++i) wide += ",0";
  EXPECT_THAT(error_of(with_header(wide + "]}")), HasSubstr("more than 1048576 values"));
  EXPECT_THAT(error_of(with_header("[" + tensor + "]")), HasSubstr("expected a JSON object"));
  EXPECT_THAT(error_of(with_header("{\"\xc0\xaf\":" + tensor + "}")), HasSubstr("not valid JSON"));
  EXPECT_THAT(error_of(with_header("{\"t\":" + tensor + "} x")), HasSubstr("not valid JSON"));
  const std::string name(1000000, 'n');
  EXPECT_LT(error_of(with_header("{\"" + name + "\":3}")).size(), 300u);
  EXPECT_THAT(error_of(with_header("{\"a\\nb\":3}")), HasSubstr("\"a\\nb\""));
}

// --- whole models -------------------------------------------------------------------------------

// Reads every byte of every tensor: a view that leaves the mapping faults here.
uint64_t sum(const Safetensors& file) {
  uint64_t total = 0;
  for (const auto& [name, tensor] : file.tensors()) {
    for (int64_t i = 0; i < tensor.bytes; ++i) total += static_cast<uint64_t>(tensor.data[i]);
  }
  return total;
}

class Mutations : public ::testing::Test {
 protected:
  Mutations() {
    const TinyModel model{
        .layers = 1, .hidden = 8, .intermediate = 8, .heads = 2, .kv_heads = 1, .head_dim = 4};
    write_tiny_model(model, dir_.path());
    config_ = *load_config(dir_.path());
    good_ = safetensors_bytes(tiny_tensors(model));
    std::memcpy(&header_, good_.data(), sizeof(header_));
  }

  absl::Status open(const std::string& content) {
    write_file(dir_ / "model.safetensors", content);
    const auto checkpoint = open_checkpoint(dir_.path(), config_);
    if (checkpoint.ok()) sum(*checkpoint->files);
    return checkpoint.status();
  }

  TempDir dir_;
  ModelConfig config_;
  std::string good_;
  uint64_t header_ = 0;
};

TEST_F(Mutations, CutShortAnywhere) {
  ASSERT_TRUE(open(good_).ok());
  std::vector<size_t> lengths;
  for (size_t length = 0; length < header_ + 16; length += 7) lengths.push_back(length);
  for (size_t length = header_ + 16; length < good_.size(); length += 97) lengths.push_back(length);
  lengths.push_back(good_.size() - 1);
  for (const size_t length : lengths) {
    EXPECT_FALSE(open(good_.substr(0, length)).ok()) << length;
  }
  EXPECT_FALSE(open(good_ + "x").ok());
}

TEST_F(Mutations, FlippedHeaderBytes) {
  std::mt19937 random(20240607);
  int accepted = 0;
  for (int round = 0; round < 2000; ++round) {
    std::string bad = good_;
    const int changes = 1 + static_cast<int>(random() % 3);
    for (int i = 0; i < changes; ++i) {
      bad[random() % (header_ + 8)] = static_cast<char>(random());
    }
    const absl::Status status = open(bad);
    if (status.ok()) ++accepted;  // a flip in "format" or in white space harms nobody
    EXPECT_THAT(status.code(), AnyOf(absl::StatusCode::kOk, absl::StatusCode::kInvalidArgument))
        << status;
  }
  EXPECT_LT(accepted, 200);
}

// Digits that stay digits and punctuation that stays JSON get further into the checks.
TEST_F(Mutations, ChangedNumbers) {
  const json header = json::parse(good_.substr(8, header_));
  const std::string data = good_.substr(8 + header_);
  const std::vector<json> values = {0,
                                    1,
                                    -1,
                                    3,
                                    8,
                                    264,
                                    2112,
                                    1u << 31,
                                    -(int64_t{1} << 62),
                                    ~uint64_t{0},
                                    uint64_t{1} << 63,
                                    1e300,
                                    nullptr,
                                    "8"};
  std::mt19937 random(7);
  for (int round = 0; round < 2000; ++round) {
    json changed = header;
    auto entry = changed.begin();
    std::advance(entry, random() % changed.size());
    if (entry.key() == "__metadata__") continue;
    json& list = (*entry)[random() % 2 ? "shape" : "data_offsets"];
    json& number = list[random() % list.size()];
    const json& value = values[random() % values.size()];
    if (number == value) continue;
    number = value;
    std::string text = changed.dump();
    text.resize((text.size() + 7) / 8 * 8, ' ');
    EXPECT_FALSE(open(safetensors_bytes(text, data)).ok()) << text;
  }
}

}  // namespace
}  // namespace kascade
