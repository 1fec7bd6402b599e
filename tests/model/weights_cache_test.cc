// Tests an engine with a cache of packed weights: results from the cache file equal those without
// it, and a faulty file causes a warning only.
#include <chrono>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "engine/backend/cpu/panel_kernels.h"
#include "engine/engine.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/engine_client.h"
#include "tests/support/tiny_model.h"

namespace kascade::testing {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::StartsWith;

class WeightsCacheTest : public ::testing::TestWithParam<std::string> {
 protected:
  WeightsCacheTest() { write_tiny_model({.hidden = 48, .intermediate = 80}, model_); }
  void SetUp() override {
    if (GetParam() == "bf16" && cpu::pick_bf16_kernels() == nullptr) {
      GTEST_SKIP() << "no bf16 instructions on this machine";
    }
  }

  EngineOptions options(const fs::path& cache) const {
    EngineOptions options;
    options.model_directory = model_;
    options.backend = "cpu";
    options.weights = GetParam();
    options.weights_cache = cache;
    options.max_sequences = 2;
    return options;
  }
  std::vector<float> results(Engine& engine) const {
    Request request{.tokens = random_tokens(100, 256, 3), .task = Score{.first_scored = 1}};
    std::vector<float> logprobs;
    for (const ScoredToken& token : run(engine, std::move(request)).tokens) {
      logprobs.push_back(token.logprob);
    }
    return logprobs;
  }
  // The cache's one file.
  fs::path file() const { return fs::directory_iterator(cache_)->path(); }
  // A start that warns of `why` once, serves as ever, and puts a good file in the place of a bad
  // one.
  void expect_repaired(const std::string& why) const {
    const auto plain = make_engine(options({}));
    const auto engine = make_engine(options(cache_));
    EXPECT_THAT(engine->info().warnings, ElementsAre(HasSubstr(why)));
    EXPECT_THAT(engine->info().weights_cache, StartsWith("wrote "));
    EXPECT_EQ(results(*engine), results(*plain));
    EXPECT_THAT(make_engine(options(cache_))->info().weights_cache, StartsWith("read "));
  }

  TempDir dir_;
  fs::path model_ = dir_ / "model";
  fs::path cache_ = dir_ / "cache";
};

TEST_P(WeightsCacheTest, SameBitsFromTheFile) {
  const auto plain = make_engine(options({}));
  const auto writes = make_engine(options(cache_));
  EXPECT_EQ(writes->info().weights_cache, "wrote " + file().string());
  const auto reads = make_engine(options(cache_));
  EXPECT_EQ(reads->info().weights_cache, "read " + file().string());
  EXPECT_EQ(plain->info().weights_cache, "");
  EXPECT_EQ(reads->info().packed_bytes, plain->info().packed_bytes);
  for (const auto* engine : {&plain, &writes, &reads}) {
    EXPECT_THAT((*engine)->info().warnings, IsEmpty());
    EXPECT_EQ(results(**engine), results(*plain));
  }
}

TEST_P(WeightsCacheTest, DamageIsRepaired) {
  make_engine(options(cache_));
  const fs::path packed = file();
  const auto size = static_cast<std::streamoff>(fs::file_size(packed));
  for (const std::streamoff at : {std::streamoff{100}, std::streamoff{5000}, size - 1}) {
    std::fstream stream(packed, std::ios::binary | std::ios::in | std::ios::out);
    stream.seekg(at);
    const char byte = static_cast<char>(stream.get() ^ 0x20);
    stream.seekp(at);
    stream.put(byte);
    stream.close();
    expect_repaired(packed.string());
  }
  fs::resize_file(packed, static_cast<uintmax_t>(size / 2));
  expect_repaired("expected " + std::to_string(size) + " bytes");
  write_file(packed, "foreign");
  expect_repaired("is not a file of packed weights");
}

// The digest of the checkpoint does not see what lies amid a large tensor; the time does.
TEST_P(WeightsCacheTest, ChangedModelIsPackedAnew) {
  make_engine(options(cache_));
  const fs::path weights = model_ / "model.safetensors";
  fs::last_write_time(weights, fs::last_write_time(weights) + std::chrono::milliseconds(1));
  const auto engine = make_engine(options(cache_));
  EXPECT_THAT(engine->info().weights_cache, StartsWith("wrote "));
  EXPECT_THAT(engine->info().warnings, IsEmpty());
}

TEST_P(WeightsCacheTest, FolderThatCannotBeWritten) {
  write_file(cache_, "a file");
  const auto engine = make_engine(options(cache_));
  EXPECT_THAT(engine->info().warnings, ElementsAre(HasSubstr(cache_.string())));
  EXPECT_EQ(engine->info().weights_cache, "");
  EXPECT_EQ(results(*engine), results(*make_engine(options({}))));
}

INSTANTIATE_TEST_SUITE_P(Formats, WeightsCacheTest, ::testing::Values("bf16", "int8", "int4"),
                         [](const auto& format) { return format.param; });

TEST(WeightsCache, F32IsNotKept) {
  TempDir dir;
  write_tiny_model({}, dir / "model");
  EngineOptions options;
  options.model_directory = dir / "model";
  options.weights_cache = dir / "cache";
  for (const char* backend : {"cpu", "reference"}) {
    options.backend = backend;
    const auto engine = make_engine(options);
    EXPECT_THAT(engine->info().warnings, ElementsAre(HasSubstr("f32 weights of backend")));
    EXPECT_FALSE(fs::exists(dir / "cache"));
  }
}

}  // namespace
}  // namespace kascade::testing
