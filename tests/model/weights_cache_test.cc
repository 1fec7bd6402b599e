// Tests an engine with packed weights from files, those of a cache and those that the model folder
// brings: results equal those without them, and a faulty file causes a warning only.
#include <chrono>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <string>
#include <vector>

#include "engine/backend/cpu/panel_kernels.h"
#include "engine/engine.h"
#include "engine/model/packed_weights.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/engine_client.h"
#include "tests/support/tiny_model.h"

namespace kascade::testing {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::StartsWith;

class WeightsCacheTest : public ::testing::TestWithParam<std::string> {
 protected:
  WeightsCacheTest() {
    const DType dtype = GetParam() == "native" ? DType::kQ8_0 : DType::kF32;
    write_tiny_model({.hidden = 64, .intermediate = 96, .vocab = 2100, .dtype = dtype}, model_);
  }
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

  static absl::Status try_to_pack(const fs::path& folder, const std::string& format,
                                  const std::function<absl::Status(const PackProgress&)>& report) {
    const auto config = load_config(folder);
    const auto checkpoint = open_checkpoint(folder, *config);
    const auto backend = open_backend({.name = "cpu", .weights = *weight_format_named(format)});
    return write_packed_weights(packed_file_of(folder, *weight_format_named(format)), *config,
                                *checkpoint, **backend, report)
        .status();
  }
  static void pack(const fs::path& folder, const std::string& format) {
    const auto status =
        try_to_pack(folder, format, [](const PackProgress&) { return absl::OkStatus(); });
    ASSERT_TRUE(status.ok()) << status;
  }
  // The file of the format under test in a model folder.
  static fs::path packed(const fs::path& folder) {
    return packed_file_of(folder, *weight_format_named(GetParam()));
  }
  static void change_times(const fs::path& folder) {
    const fs::path weights = folder / "model.safetensors";
    fs::last_write_time(weights, fs::last_write_time(weights) + std::chrono::milliseconds(1));
  }
  // Changes one weight in the middle of a tensor that is larger than what the digest reads.
  static void change_weights(const fs::path& folder) {
    const auto files = Safetensors::open_folder(folder);
    const auto& tensor = (*files)->tensors().at("lm_head.weight");
    ASSERT_GT(tensor.bytes, 2 * 65536);
    const std::string content = read_file(folder / "model.safetensors", 1 << 30).value();
    const std::string_view middle(reinterpret_cast<const char*>(tensor.data) + tensor.bytes / 2,
                                  64);
    std::string changed = content;
    const size_t at = content.find(middle);
    ASSERT_NE(at, std::string::npos);
    changed[at + 3] = static_cast<char>(changed[at + 3] ^ 1);  // times or divided by 4
    const auto time = fs::last_write_time(folder / "model.safetensors");
    write_file(folder / "model.safetensors", changed);
    fs::last_write_time(folder / "model.safetensors", time + std::chrono::milliseconds(1));
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

// The digest of the checkpoint does not see what lies amid a large tensor. That the file has
// another time shows that it was written, and its checksum that it is not the same.
TEST_P(WeightsCacheTest, ChangedModelIsPackedAnew) {
  make_engine(options(cache_));
  change_weights(model_);
  expect_repaired("is of other weights");
}

TEST_P(WeightsCacheTest, CopiedModelUsesTheFile) {
  make_engine(options(cache_));
  change_times(model_);
  const auto engine = make_engine(options(cache_));
  EXPECT_THAT(engine->info().weights_cache, StartsWith("read "));
  EXPECT_THAT(engine->info().warnings, IsEmpty());
}

// ---- Packed weights in the model folder ----

TEST_P(WeightsCacheTest, ModelFolderBringsPackedWeights) {
  const auto plain = make_engine(options({}));
  pack(model_, GetParam());
  const auto engine = make_engine(options({}));
  EXPECT_EQ(engine->info().weights_cache, "read " + packed(model_).string());
  EXPECT_THAT(engine->info().warnings, IsEmpty());
  EXPECT_EQ(engine->info().packed_bytes, plain->info().packed_bytes);
  EXPECT_EQ(results(*engine), results(*plain));
}

// A copy without the file times, in a folder that nobody may write.
TEST_P(WeightsCacheTest, CopiedFolderBringsThemToo) {
  pack(model_, GetParam());
  const fs::path copy = dir_ / "copy";
  fs::copy(model_, copy, fs::copy_options::recursive);
  change_times(copy);
  for (const fs::path& folder : {copy / "packed", copy}) {
    fs::permissions(folder, fs::perms::owner_read | fs::perms::owner_exec);
  }
  auto at_copy = options({});
  at_copy.model_directory = copy;
  const auto engine = make_engine(at_copy);
  EXPECT_EQ(engine->info().weights_cache, "read " + packed(copy).string());
  EXPECT_THAT(engine->info().warnings, IsEmpty());
  EXPECT_EQ(results(*engine), results(*make_engine(options({}))));
  for (const fs::path& folder : {copy, copy / "packed"}) {
    fs::permissions(folder, fs::perms::owner_all);
  }
}

TEST_P(WeightsCacheTest, PackedWeightsOfAnotherModelAreNotUsed) {
  pack(model_, GetParam());
  change_weights(model_);
  const auto engine = make_engine(options({}));
  EXPECT_EQ(engine->info().weights_cache, "");
  EXPECT_THAT(engine->info().warnings,
              ElementsAre(AllOf(HasSubstr(packed(model_).string() + ": is of other weights"),
                                HasSubstr("kascade-convert --existing"))));
  fs::remove_all(model_ / "packed");
  EXPECT_EQ(results(*engine), results(*make_engine(options({}))));
}

TEST_P(WeightsCacheTest, PackedWeightsOfAnotherFormatAreNotUsed) {
  const std::string other = GetParam() == "int8" ? "int4" : "int8";
  pack(model_, other);
  auto engine = make_engine(options({}));
  EXPECT_EQ(engine->info().weights_cache, "");
  EXPECT_THAT(engine->info().warnings, IsEmpty());
  // Nor are they under the name of this format.
  fs::rename(packed_file_of(model_, *weight_format_named(other)), packed(model_));
  engine = make_engine(options({}));
  EXPECT_EQ(engine->info().weights_cache, "");
  EXPECT_THAT(engine->info().warnings, ElementsAre(HasSubstr(packed(model_).string())));
}

TEST_P(WeightsCacheTest, TheCacheComesFirst) {
  make_engine(options(cache_));
  const fs::path in_cache = file();
  pack(model_, GetParam());
  EXPECT_EQ(make_engine(options(cache_))->info().weights_cache, "read " + in_cache.string());
  fs::remove(in_cache);
  EXPECT_EQ(make_engine(options(cache_))->info().weights_cache, "read " + packed(model_).string());
  EXPECT_TRUE(fs::is_empty(cache_));
  // A damaged file is replaced, even if the one of the model folder serves.
  write_file(in_cache, "foreign");
  expect_repaired("is not a file of packed weights");
}

// After an error, what was there before is still there.
TEST_P(WeightsCacheTest, PackingCanBeInterrupted) {
  pack(model_, GetParam());
  const auto written = fs::last_write_time(packed(model_));
  int calls = 0;
  const auto status = try_to_pack(model_, GetParam(), [&](const PackProgress& progress) {
    EXPECT_LT(progress.bytes_done, progress.bytes_total);
    return ++calls < 3 ? absl::OkStatus() : absl::CancelledError("enough");
  });
  EXPECT_TRUE(absl::IsCancelled(status));
  EXPECT_EQ(fs::last_write_time(packed(model_)), written);
  EXPECT_EQ(std::distance(fs::directory_iterator(model_ / "packed"), {}), 1);
}

TEST_P(WeightsCacheTest, FolderThatCannotBeWritten) {
  write_file(cache_, "a file");
  const auto engine = make_engine(options(cache_));
  EXPECT_THAT(engine->info().warnings, ElementsAre(HasSubstr(cache_.string())));
  EXPECT_EQ(engine->info().weights_cache, "");
  EXPECT_EQ(results(*engine), results(*make_engine(options({}))));
}

INSTANTIATE_TEST_SUITE_P(Formats, WeightsCacheTest,
                         ::testing::Values("bf16", "int8", "int4", "native"),
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
