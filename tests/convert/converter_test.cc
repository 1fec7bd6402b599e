// Tests the parts of kascade-convert that all formats share: casts, output files, writer,
// destination, record, verification, and a complete conversion of an artificial Source.
#include <cmath>
#include <cstring>
#include <fstream>
#include <limits>
#include <map>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "engine/base/digest.h"
#include "engine/model/checkpoint.h"
#include "engine/model/file.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/tiny_model.h"
#include "tools/convert/config_json.h"
#include "tools/convert/conversion_record.h"
#include "tools/convert/convert.h"
#include "tools/convert/destination.h"
#include "tools/convert/output_plan.h"
#include "tools/convert/rope_layout.h"
#include "tools/convert/safetensors_writer.h"
#include "tools/convert/value_cast.h"
#include "tools/convert/verify.h"

namespace kascade::convert {
namespace {

namespace fs = std::filesystem;
using kascade::testing::TempDir;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

// A model with values of our choice, in any mix of dtypes.
class FakeSource : public Source {
 public:
  explicit FakeSource(int32_t layers = 2) {
    config_.layers = layers;
    config_.hidden = 8;
    config_.intermediate = 12;
    config_.heads = 2;
    config_.kv_heads = 1;
    config_.head_dim = 4;
    config_.vocab = 10;
    config_.context = 64;
    config_.bos_token = 1;
    config_.eos_tokens = {2, 3};
    add("lm_head.weight", {10, 8});
    add("model.norm.weight", {8});
    for (int32_t layer = layers - 1; layer >= 0; --layer) add_layer(layer);
    add("model.embed_tokens.weight", {10, 8});
  }

  std::string family() const override { return "fake"; }
  const ModelConfig& config() const override { return config_; }
  const std::vector<SourceTensor>& tensors() const override { return tensors_; }
  absl::Status read(size_t index, std::span<std::byte> target) override {
    const SourceTensor& tensor = tensors_[index];
    std::vector<std::byte> values(static_cast<size_t>(tensor.elements()) * 4);
    for (int64_t i = 0; i < tensor.elements(); ++i) {
      float value = static_cast<float>(i % 7) * 0.25f - static_cast<float>(index);
      if (tensor.name == poisoned && i == 5) value = poison;
      std::memcpy(values.data() + i * 4, &value, sizeof(value));
    }
    cast_values(values, DType::kF32, target, tensor.dtype);
    return read_status;
  }
  std::vector<SideFile> side_files() const override {
    return {{.name = "generation_config.json", .content = R"({"eos_token_id": [2, 3]})"}};
  }
  std::vector<fs::path> inputs() const override { return {}; }
  std::vector<std::string> decisions() const override { return {"a choice"}; }

  SourceTensor& tensor(const std::string& name) {
    for (SourceTensor& candidate : tensors_) {
      if (candidate.name == name) return candidate;
    }
    ADD_FAILURE() << "no tensor " << name;
    return tensors_.front();
  }

  std::string poisoned{};
  float poison = 0;
  absl::Status read_status{};

 private:
  void add(const std::string& name, const std::vector<int64_t>& shape) {
    tensors_.push_back({name, DType::kF32, shape});
  }
  void add_layer(int32_t layer) {
    const std::string prefix = absl::StrCat("model.layers.", layer, ".");
    for (const char* norm : {"input_layernorm", "post_attention_layernorm"}) {
      add(absl::StrCat(prefix, norm, ".weight"), {8});
    }
    const std::map<std::string, std::vector<int64_t>> matrices = {
        {"self_attn.q_proj", {8, 8}}, {"self_attn.k_proj", {4, 8}}, {"self_attn.v_proj", {4, 8}},
        {"self_attn.o_proj", {8, 8}}, {"mlp.gate_proj", {12, 8}},   {"mlp.up_proj", {12, 8}},
        {"mlp.down_proj", {8, 12}}};
    for (const auto& [name, shape] : matrices) add(absl::StrCat(prefix, name, ".weight"), shape);
  }

  ModelConfig config_;
  std::vector<SourceTensor> tensors_;
};

absl::Status run(FakeSource& source, const fs::path& destination,
                 const ConvertOptions& options = {}) {
  return convert(source, "/somewhere/fake", destination, options, [](const ConvertProgress&) {});
}

std::set<std::string> names_in(const fs::path& folder) {
  std::set<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder)) names.insert(entry.path().filename());
  return names;
}

TEST(RopeLayout, MatchesTheDefinition) {
  // Within a head of 6: rows 2p + c of the neighbouring layout are rows c · 3 + p here.
  std::vector<int64_t> rows;
  for (int64_t row = 0; row < 12; ++row) rows.push_back(neighbouring_row(row, 6));
  EXPECT_THAT(rows, ElementsAre(0, 2, 4, 1, 3, 5, 6, 8, 10, 7, 9, 11));
}

TEST(ValueCast, RoundsToNearestEven) {
  const std::vector<float> values = {1.0f, -2.5f, 1.00390625f, 1.01171875f, 65504.0f, 1e-8f};
  const auto bytes = std::as_bytes(std::span(values));
  std::vector<std::byte> bf16(values.size() * 2);
  std::vector<std::byte> f16(values.size() * 2);
  cast_values(bytes, DType::kF32, bf16, DType::kBF16);
  cast_values(bytes, DType::kF32, f16, DType::kF16);
  EXPECT_EQ(value_at(bf16, DType::kBF16, 1), -2.5f);
  EXPECT_EQ(value_at(bf16, DType::kBF16, 2), 1.0f);       // a tie: to even
  EXPECT_EQ(value_at(bf16, DType::kBF16, 3), 1.015625f);  // a tie: to even
  EXPECT_EQ(value_at(f16, DType::kF16, 2), 1.00390625f);
  EXPECT_EQ(value_at(f16, DType::kF16, 4), 65504.0f);
  EXPECT_EQ(value_at(f16, DType::kF16, 5), 0.0f);
  EXPECT_FALSE(first_not_finite(f16, DType::kF16).has_value());
}

TEST(ValueCast, FindsWhatIsNotFinite) {
  std::vector<float> values = {1, 70000, 3, std::nanf("")};
  EXPECT_EQ(first_not_finite(std::as_bytes(std::span(values)), DType::kF32), 3);
  std::vector<std::byte> f16(8);
  cast_values(std::as_bytes(std::span(values)), DType::kF32, f16, DType::kF16);
  EXPECT_EQ(first_not_finite(f16, DType::kF16), 1);
}

TEST(OutputLayout, EveryTensorOnceInOrderOfLayers) {
  FakeSource source(3);
  const auto files = plan_output(source, {});
  ASSERT_EQ(files.size(), 1u);
  EXPECT_EQ(files[0].name, "model.safetensors");
  EXPECT_EQ(files[0].tensors.size(), source.tensors().size());
  EXPECT_EQ(files[0].tensors.front().name, "model.embed_tokens.weight");
  EXPECT_EQ(layer_of(files[0].tensors[1].name), 0);
  EXPECT_EQ(layer_of(files[0].tensors[9 * 3].name), 2);
  EXPECT_EQ(files[0].tensors.back().name, "lm_head.weight");
  EXPECT_TRUE(index_json(files).empty());
}

TEST(OutputLayout, ShardsKeepBelowTheLimit) {
  FakeSource source(3);
  const auto files = plan_output(source, {.max_shard_bytes = 600});
  EXPECT_GT(files.size(), 3u);
  std::set<std::string> seen;
  for (const OutputFile& file : files) {
    int64_t bytes = 0;
    for (const SourceTensor& tensor : file.tensors) {
      bytes += tensor.bytes();
      EXPECT_TRUE(seen.insert(tensor.name).second);
    }
    EXPECT_LE(bytes, 600);
  }
  EXPECT_EQ(seen.size(), source.tensors().size());
  EXPECT_EQ(files.front().name, absl::StrFormat("model-00001-of-%05d.safetensors", files.size()));
  // A tensor above the limit has a shard to itself.
  EXPECT_EQ(plan_output(source, {.max_shard_bytes = 1}).size(), source.tensors().size());
}

TEST(OutputLayout, MatricesOfSeveralTypesBecomeF32) {
  FakeSource source;
  source.tensor("lm_head.weight").dtype = DType::kBF16;
  source.tensor("model.norm.weight").dtype = DType::kF16;
  const auto kept = plan_output(source, {});
  for (const SourceTensor& tensor : kept[0].tensors) {
    const bool is_norm = tensor.name == "model.norm.weight";
    EXPECT_EQ(tensor.dtype, is_norm ? DType::kF16 : DType::kF32) << tensor.name;
  }
  const auto narrowed = plan_output(source, {.dtype = DType::kBF16});
  for (const SourceTensor& tensor : narrowed[0].tensors) {
    EXPECT_EQ(tensor.dtype, DType::kBF16) << tensor.name;
  }
}

TEST(ConfigJson, ReadsBackTheSame) {
  const FakeSource source;
  ModelConfig config = source.config();
  config.rope_theta = 500000;
  config.rope_scaling = Llama3RopeScaling{.factor = 32};
  config.tied_head = true;
  const auto read = parse_config(to_config_json(config, DType::kBF16), "");
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->rope_scaling, config.rope_scaling);
  EXPECT_EQ(read->rope_theta, 500000);
  EXPECT_EQ(read->head_dim, 4);
  EXPECT_EQ(read->kv_heads, 1);
  EXPECT_EQ(read->eos_tokens, config.eos_tokens);
  EXPECT_EQ(read->bos_token, config.bos_token);
  EXPECT_TRUE(read->tied_head);
  EXPECT_EQ(read->norm_eps, config.norm_eps);
}

TEST(ConfigJson, EditsOneEntry) {
  const std::string original = R"({"b": 1, "a": {"factor": 3}, "rope_scaling": {"factor": 8.0}})";
  EXPECT_THAT(*with_dtype(original, DType::kF16), HasSubstr(R"("torch_dtype": "float16")"));
  EXPECT_THAT(*with_dtype(R"({"dtype": "x"})", DType::kF32), HasSubstr(R"("dtype": "float32")"));
  EXPECT_THAT(*with_rope_factor(original, 32), HasSubstr(R"("factor": 32.0)"));
  EXPECT_THAT(*with_rope_factor(original, 32), HasSubstr(R"("factor": 3
)"));
  EXPECT_THAT(with_rope_factor(R"({"rope_scaling": null})", 32).status().message(),
              HasSubstr("--rope-factor 32"));
}

TEST(Convert, MakesAFolderThatLoadsAndVerifies) {
  const TempDir dir;
  FakeSource source;
  ASSERT_TRUE(run(source, dir / "out").ok());
  EXPECT_EQ(names_in(dir.path()), std::set<std::string>{"out"});
  const auto config = load_config(dir / "out");
  ASSERT_TRUE(config.ok()) << config.status();
  const auto checkpoint = open_checkpoint(dir / "out", *config);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  // Tensor 0 of the source is the head: value(i) = (i mod 7) / 4.
  EXPECT_EQ(checkpoint->head.f32(1)[0], 0.25f);
  const auto verification = verify(dir / "out");
  ASSERT_TRUE(verification.ok()) << verification.status();
  EXPECT_EQ(verification->digests_checked, 1);
  EXPECT_EQ(verification->tensors.size(), source.tensors().size());
  EXPECT_EQ(verification->not_finite, 0);
  EXPECT_EQ(verification->tensors[0].name, "lm_head.weight");
  EXPECT_EQ(verification->tensors[0].min, 0);
  EXPECT_EQ(verification->tensors[0].max, 1.5f);
}

TEST(Convert, ReportsEveryByte) {
  const TempDir dir;
  FakeSource source;
  ConvertProgress last;
  const auto status = convert(source, "fake", dir / "out", {.dtype = DType::kBF16},
                              [&](const ConvertProgress& progress) { last = progress; });
  ASSERT_TRUE(status.ok()) << status;
  int64_t bytes = 0;
  for (const SourceTensor& tensor : source.tensors()) bytes += tensor.elements() * 2;
  EXPECT_EQ(last.bytes_done, bytes);
  EXPECT_EQ(last.bytes_total, bytes);
}

TEST(Convert, RefusesValuesThatAreNotFinite) {
  const TempDir dir;
  FakeSource source;
  source.poisoned = "model.layers.1.mlp.up_proj.weight";
  source.poison = 1e6f;
  EXPECT_TRUE(run(source, dir / "fits").ok());
  const auto too_large = run(source, dir / "out", {.dtype = DType::kF16});
  EXPECT_THAT(too_large.message(), HasSubstr("model.layers.1.mlp.up_proj.weight: element 5"));
  source.poison = std::nanf("");
  EXPECT_EQ(run(source, dir / "out").code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(names_in(dir.path()), std::set<std::string>{"fits"});
}

TEST(Convert, LeavesNothingAfterAnErrorOrACancellation) {
  const TempDir dir;
  FakeSource source;
  source.read_status = absl::DataLossError("broken");
  EXPECT_EQ(run(source, dir / "out").message(), "broken");
  source.read_status = absl::OkStatus();
  const std::atomic<bool> cancelled = true;
  EXPECT_TRUE(absl::IsCancelled(run(source, dir / "out", {.cancelled = &cancelled})));
  // What the server would refuse never appears at DEST.
  source.tensor("lm_head.weight").name = "lm_head.bias";
  EXPECT_EQ(run(source, dir / "out").code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(names_in(dir.path()).empty());
}

TEST(Destination, ReplacesModelFoldersOnly) {
  const TempDir dir;
  FakeSource source;
  ASSERT_TRUE(run(source, dir / "out").ok());
  EXPECT_TRUE(absl::IsAlreadyExists(run(source, dir / "out")));
  EXPECT_TRUE(run(source, dir / "out", {.layout = Layout::kPerLayer, .force = true}).ok());
  EXPECT_TRUE(fs::exists(dir / "out" / "layer_01.safetensors"));
  EXPECT_FALSE(fs::exists(dir / "out" / "model.safetensors"));
  fs::remove(dir / "out" / "config.json");
  EXPECT_TRUE(absl::IsAlreadyExists(run(source, dir / "out", {.force = true})));
}

TEST(Destination, OneWriterAtATimeAndLeftoversAreRemoved) {
  const TempDir dir;
  {
    const auto first = Destination::create(dir / "out", false, 0);
    ASSERT_TRUE(first.ok()) << first.status();
    EXPECT_TRUE(absl::IsFailedPrecondition(Destination::create(dir / "out/", false, 0).status()));
  }
  EXPECT_TRUE(names_in(dir.path()).empty());
  fs::create_directory(dir / ".out.partial");
  std::ofstream(dir / ".out.partial" / "model.safetensors") << "half";
  const auto second = Destination::create(dir / "out", false, 0);
  ASSERT_TRUE(second.ok()) << second.status();
  EXPECT_TRUE(names_in((*second)->partial()).empty());
  ASSERT_TRUE((*second)->commit().ok());
  EXPECT_EQ(names_in(dir.path()), std::set<std::string>{"out"});
}

TEST(Destination, AsksForSpaceFirst) {
  const TempDir dir;
  const auto status =
      Destination::create(dir / "out", false, std::numeric_limits<int64_t>::max() / 2).status();
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
  EXPECT_TRUE(names_in(dir.path()).empty());
}

TEST(Verify, SeesChangedBytesAndBadRecords) {
  const TempDir dir;
  FakeSource source;
  ASSERT_TRUE(run(source, dir / "out").ok());
  const fs::path weights = dir / "out" / "model.safetensors";
  {
    std::fstream file(weights, std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(-1, std::ios::end);
    file.put('\x7f');
  }
  EXPECT_EQ(verify(dir / "out").status().code(), absl::StatusCode::kDataLoss);
  fs::remove(dir / "out" / "conversion.json");
  EXPECT_TRUE(verify(dir / "out").ok());
  for (const char* record : {"{", R"({"outputs": 1})", R"({"outputs": {"x": {}}})",
                             R"({"outputs": {"../x": {"sha256": ""}}})"}) {
    std::ofstream(dir / "out" / "conversion.json") << record;
    EXPECT_EQ(verify(dir / "out").status().code(), absl::StatusCode::kInvalidArgument) << record;
  }
}

TEST(OpenSource, TellsWhatItExpected) {
  const TempDir dir;
  EXPECT_TRUE(absl::IsNotFound(open_source(dir / "none", {}).status()));
  EXPECT_THAT(open_source(dir.path(), {}).status().message(), HasSubstr("params.json"));
  std::ofstream(dir / "file") << "PK\x03\x04 and more of it, 28 bytes at least";
  EXPECT_THAT(open_source(dir / "file", {}).status().message(), HasSubstr("give the folder"));
  std::ofstream(dir / "file") << "hello";
  EXPECT_THAT(open_source(dir / "file", {}).status().message(), HasSubstr("GGUF"));
  std::ofstream(dir / "file") << "GGUF";
  EXPECT_EQ(open_source(dir / "file", {}).status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace kascade::convert
