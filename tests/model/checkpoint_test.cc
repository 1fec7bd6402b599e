// Tests the reading of model folders: real ones, random ones in every storage variant, and damaged
// ones.
#include "engine/model/checkpoint.h"

#include <algorithm>
#include <cmath>
#include <functional>

#include "engine/base/digest.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/shared_data.h"
#include "tests/support/tiny_model.h"

namespace kascade {
namespace {

using nlohmann::json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::RawTensor;
using testing::safetensors_bytes;
using testing::TempDir;
using testing::TinyModel;
using testing::TinyTable;
using testing::write_file;
using testing::write_tiny_model;

absl::StatusOr<Checkpoint> open(const std::filesystem::path& directory) {
  const auto config = load_config(directory);
  if (!config.ok()) return config.status();
  return open_checkpoint(directory, *config);
}

absl::StatusOr<Checkpoint> open(const TinyModel& model) {
  TempDir dir;  // the mapping outlives the folder
  return open(write_tiny_model(model, dir.path()));
}

// --- what is accepted ---------------------------------------------------------------------------

TEST(RealModels, Demo) {
  const auto config = load_config(testing::demo_model());
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->name, "demo");
  EXPECT_EQ(config->layers, 14);
  EXPECT_EQ(config->q_dim(), 192);
  EXPECT_EQ(config->kv_dim(), 64);
  EXPECT_EQ(config->head_dim, 32);
  EXPECT_EQ(config->context, 4096);
  EXPECT_EQ(config->rope_theta, 200000);
  EXPECT_EQ(config->bos_token, 0);
  EXPECT_THAT(config->eos_tokens, ElementsAre(0));
  const auto checkpoint = open_checkpoint(testing::demo_model(), *config);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_EQ(checkpoint->dtype, DType::kBF16);
  EXPECT_EQ(checkpoint->head.data, checkpoint->embedding.data);
  EXPECT_EQ(checkpoint->layers.size(), 14u);
  EXPECT_EQ(checkpoint->layers[3].q.rows, 192);
  EXPECT_EQ(checkpoint->layers[3].o.cols, 192);
  int64_t stored = 0;
  for (const auto& [name, tensor] : checkpoint->files->tensors()) stored += tensor.bytes / 2;
  EXPECT_EQ(config->parameters(), stored);
}

TEST(RealModels, TinyStoriesKeepsItsTiedTableUnderTheHeadsName) {
  KASCADE_NEEDS_DATA("models/tinystories-656k");
  const auto directory = testing::shared_data() / "models" / "tinystories-656k";
  const auto checkpoint = open(directory);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_EQ(checkpoint->dtype, DType::kF32);
  EXPECT_EQ(checkpoint->embedding.rows, 2048);
  EXPECT_EQ(checkpoint->head.data, checkpoint->embedding.data);
  EXPECT_EQ(load_config(directory)->norm_eps, 1e-6);
  EXPECT_EQ(load_config(directory)->head_dim, 16);
}

std::vector<float> values(const Tensor& tensor) {
  std::vector<float> result;
  for (int64_t row = 0; row < tensor.rows; ++row) {
    for (int64_t col = 0; col < tensor.cols; ++col) {
      const uint16_t half = tensor.dtype == DType::kF32 ? 0 : tensor.bf16(row)[col];
      result.push_back(tensor.dtype == DType::kF32    ? tensor.f32(row)[col]
                       : tensor.dtype == DType::kBF16 ? from_bf16(half)
                                                      : from_f16(half));
    }
  }
  return result;
}

double largest_difference(const Tensor& a, const Tensor& b) {
  const auto left = values(a);
  const auto right = values(b);
  EXPECT_EQ(left.size(), right.size());
  double largest = 0;
  for (size_t i = 0; i < left.size(); ++i) {
    largest = std::max(largest, std::abs(double{left[i]} - right[i]));
  }
  return largest;
}

TEST(Variants, FieldsHoldTheTensorsOfTheirNames) {
  TempDir dir;
  const TinyModel model{.layers = 3, .head_dim = 12};  // heads · head_dim ≠ hidden
  const auto checkpoint = open(write_tiny_model(model, dir.path()));
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  const auto expect = [&](const std::string& name, const Tensor& tensor, int64_t rows,
                          int64_t cols) {
    EXPECT_EQ(tensor.rows, rows) << name;
    EXPECT_EQ(tensor.cols, cols) << name;
    EXPECT_EQ(tensor.stride, cols) << name;
    EXPECT_EQ(tensor.data, checkpoint->files->tensors().at(name).data) << name;
  };
  expect("model.embed_tokens.weight", checkpoint->embedding, 264, 32);
  expect("lm_head.weight", checkpoint->head, 264, 32);
  expect("model.norm.weight", checkpoint->norm, 1, 32);
  for (size_t i = 0; i < 3; ++i) {
    const LayerTensors& layer = checkpoint->layers[i];
    const std::string prefix = "model.layers." + std::to_string(i) + ".";
    expect(prefix + "input_layernorm.weight", layer.attention_norm, 1, 32);
    expect(prefix + "self_attn.q_proj.weight", layer.q, 48, 32);
    expect(prefix + "self_attn.k_proj.weight", layer.k, 24, 32);
    expect(prefix + "self_attn.v_proj.weight", layer.v, 24, 32);
    expect(prefix + "self_attn.o_proj.weight", layer.o, 32, 48);
    expect(prefix + "post_attention_layernorm.weight", layer.ffn_norm, 1, 32);
    expect(prefix + "mlp.gate_proj.weight", layer.gate, 64, 32);
    expect(prefix + "mlp.up_proj.weight", layer.up, 64, 32);
    expect(prefix + "mlp.down_proj.weight", layer.down, 32, 64);
  }
}

TEST(Variants, DtypesAreRoundingsOfOneModel) {
  const auto f32 = open({.dtype = DType::kF32});
  const auto bf16 = open({.dtype = DType::kBF16});
  const auto f16 = open({.dtype = DType::kF16, .f32_norms = true});
  ASSERT_TRUE(f32.ok() && bf16.ok() && f16.ok()) << bf16.status() << f16.status();
  EXPECT_EQ(f32->dtype, DType::kF32);
  EXPECT_EQ(bf16->dtype, DType::kBF16);
  EXPECT_EQ(f16->dtype, DType::kF16);
  EXPECT_EQ(f16->norm.dtype, DType::kF32);
  EXPECT_LT(largest_difference(f32->layers[1].q, bf16->layers[1].q), 4e-3);
  EXPECT_LT(largest_difference(f32->layers[1].q, f16->layers[1].q), 5e-4);
  EXPECT_LT(largest_difference(f32->norm, bf16->norm), 8e-3);
  EXPECT_EQ(largest_difference(f32->norm, f16->norm), 0);
  EXPECT_GT(largest_difference(f32->layers[0].q, f32->layers[1].q), 0.1);
}

TEST(Variants, TiedTableUnderEitherNameOrBoth) {
  for (const TinyTable table : {TinyTable::kEmbedding, TinyTable::kHead, TinyTable::kBoth}) {
    const auto checkpoint = open({.tied = true, .table = table});
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
    EXPECT_EQ(checkpoint->head.data, checkpoint->embedding.data);
    EXPECT_EQ(checkpoint->embedding.rows, testing::kTinyTokenizerIds);
  }
}

TEST(Variants, ShardsGiveTheSameModelAndDigest) {
  const auto whole = open(TinyModel{});
  const auto sharded = open({.shards = 3});
  ASSERT_TRUE(whole.ok() && sharded.ok()) << sharded.status();
  EXPECT_EQ(whole->weights_digest, sharded->weights_digest);
  EXPECT_EQ(whole->weights_digest.size(), 64u);
  EXPECT_EQ(largest_difference(whole->layers[1].down, sharded->layers[1].down), 0);
  EXPECT_NE(whole->weights_digest, open({.seed = 2})->weights_digest);
  EXPECT_NE(whole->weights_digest, open({.dtype = DType::kBF16})->weights_digest);
}

// --- what is refused ----------------------------------------------------------------------------

std::string error_of(const absl::StatusOr<Checkpoint>& result) {
  return result.ok() ? "accepted" : std::string(result.status().message());
}

// Opens the folder of `model` after `damage` changed its tensors.
using Damage = std::function<void(std::vector<RawTensor>&)>;
std::string error_after(const TinyModel& model, const Damage& damage) {
  TempDir dir;
  write_tiny_model(model, dir.path());
  std::vector<RawTensor> tensors = tiny_tensors(model);
  damage(tensors);
  write_file(dir / "model.safetensors", safetensors_bytes(tensors));
  return error_of(open(dir.path()));
}

RawTensor& named(std::vector<RawTensor>& tensors, const std::string& name) {
  return *std::find_if(tensors.begin(), tensors.end(),
                       [&](const RawTensor& tensor) { return tensor.name == name; });
}

TEST(Refusals, EveryTensorIsNeeded) {
  for (const bool tied : {false, true}) {
    const TinyModel model{.tied = tied};
    const auto tensors = tiny_tensors(model);
    for (size_t i = 0; i < tensors.size(); ++i) {
      const std::string error =
          error_after(model, [&](auto& t) { t.erase(t.begin() + static_cast<std::ptrdiff_t>(i)); });
      EXPECT_THAT(error, HasSubstr("tensor " + tensors[i].name + ": expected it")) << tied;
    }
  }
}

TEST(Refusals, EveryShapeIsChecked) {
  const TinyModel model{.heads = 4, .kv_heads = 4, .head_dim = 12};
  for (const RawTensor& tensor : tiny_tensors(model)) {
    const std::string error = error_after(model, [&](auto& tensors) {
      auto& shape = named(tensors, tensor.name).shape;
      if (shape.size() == 1) {
        shape.insert(shape.begin(), 1);
      } else if (shape[0] == shape[1]) {
        shape = {shape[0] / 2, shape[1] * 2};
      } else {
        std::swap(shape[0], shape[1]);
      }
    });
    EXPECT_THAT(error, HasSubstr("tensor " + tensor.name + ": expected shape ["));
  }
}

TEST(Refusals, MessagesNameExpectedAndFound) {
  const std::string name = "model.layers.1.self_attn.k_proj.weight";
  EXPECT_THAT(error_after(TinyModel{},
                          [&](auto& tensors) {
                            named(tensors, name).shape = {16, 16};
                            named(tensors, name).bytes.resize(16 * 16 * 4);
                          }),
              HasSubstr(name + ": expected shape [16, 32], found [16, 16]"));
  EXPECT_THAT(error_after(TinyModel{}, [&](auto& t) { named(t, name).shape = {8, 2, 32}; }),
              HasSubstr("found [8, 2, 32]"));
  EXPECT_THAT(
      error_after(TinyModel{},
                  [&](auto& t) {
                    t.push_back({"model.layers.0.self_attn.q_proj.bias", "F32", {1}, "1234"});
                  }),
      HasSubstr("model.layers.0.self_attn.q_proj.bias"));
  EXPECT_THAT(error_after(TinyModel{.layers = 3},
                          [](auto& tensors) { tensors = tiny_tensors(TinyModel{.layers = 4}); }),
              HasSubstr("model.layers.3."));
}

TEST(Refusals, Dtypes) {
  const std::string name = "model.layers.1.mlp.up_proj.weight";
  EXPECT_THAT(error_after(TinyModel{},
                          [&](auto& tensors) {
                            auto half = tiny_tensors(TinyModel{.dtype = DType::kBF16});
                            named(tensors, name) = named(half, name);
                          }),
              HasSubstr(name + ": expected dtype f32 like model.embed_tokens.weight, found bf16"));
  for (const char* dtype : {"I32", "U32", "F4", "Q4_0x", "f32", ""}) {
    EXPECT_THAT(
        error_after(TinyModel{}, [&](auto& t) { named(t, name).dtype = dtype; }),
        HasSubstr(name + ": expected dtype F32, BF16, F16 or a block format of GGUF, found \""))
        << dtype;
  }
}

TEST(Refusals, TiedTablesThatDiffer) {
  const TinyModel model{.tied = true, .table = TinyTable::kBoth};
  EXPECT_THAT(error_after(model, [](auto& t) { named(t, "lm_head.weight").bytes.back() ^= 1; }),
              HasSubstr("lm_head.weight: expected the bytes of model.embed_tokens.weight"));
  EXPECT_EQ(error_after(model, [](auto&) {}), "accepted");
}

TEST(Refusals, OldRotaryBuffersAreIgnored) {
  EXPECT_EQ(error_after(TinyModel{},
                        [](auto& t) {
                          t.push_back({"model.layers.0.self_attn.rotary_emb.inv_freq",
                                       "F32",
                                       {4},
                                       std::string(16, '\1')});
                        }),
            "accepted");
}

// --- shards -------------------------------------------------------------------------------------

// Opens a folder of two shards after `damage` changed the index (and, given the folder, its files).
absl::StatusOr<Checkpoint> open_after(const std::function<void(json&, TempDir&)>& damage) {
  TempDir dir;
  write_tiny_model({.shards = 2}, dir.path());
  const auto path = dir / "model.safetensors.index.json";
  json index = json::parse(testing::read_file(path));
  damage(index, dir);
  write_file(path, index.dump());
  return open(dir.path());
}

TEST(Shards, NamesOfFilesStayInTheFolder) {
  for (const char* file :
       {"../model-00001-of-00002.safetensors", "/etc/passwd", "", ".", "..", "a/b.safetensors",
        "a\\b.safetensors", "weights.bin", "/tmp/x.safetensors"}) {
    const auto result =
        open_after([&](json& index, TempDir&) { index["weight_map"]["lm_head.weight"] = file; });
    EXPECT_THAT(error_of(result), HasSubstr("weight_map: \"lm_head.weight\"")) << file;
  }
  const auto nul = open_after([](json& index, TempDir&) {
    index["weight_map"]["lm_head.weight"] = std::string("a\0.safetensors", 14);
  });
  EXPECT_THAT(error_of(nul), HasSubstr("beside the index"));
}

TEST(Shards, IndexAndFilesMustAgree) {
  EXPECT_THAT(error_of(open_after([](json& index, TempDir&) {
                index["weight_map"]["lm_head.weight"] = "model-00001-of-00002.safetensors";
              })),
              HasSubstr("\"lm_head.weight\" should be in this file"));
  EXPECT_THAT(error_of(open_after(
                  [](json& index, TempDir&) { index["weight_map"].erase("lm_head.weight"); })),
              HasSubstr("\"lm_head.weight\" is in this file, but the index"));
  EXPECT_THAT(error_of(open_after([](json& index, TempDir&) {
                index["weight_map"]["more"] = "model-00002-of-00002.safetensors";
              })),
              HasSubstr("\"more\" should be in this file"));
  for (const json& bad : {json(nullptr), json(3), json::array(), json("x")}) {
    EXPECT_THAT(error_of(open_after([&](json& index, TempDir&) { index["weight_map"] = bad; })),
                HasSubstr("weight_map must be an object"));
  }
  const auto missing = open_after([](json&, TempDir& dir) {
    std::filesystem::remove(dir / "model-00002-of-00002.safetensors");
  });
  EXPECT_THAT(error_of(missing),
              HasSubstr("1 of the 2 files that it lists are missing: "
                        "model-00002-of-00002.safetensors; the download is incomplete"));
}

TEST(Digests, KnownValues) {
  EXPECT_EQ(digest("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  TempDir dir;
  write_file(dir / "file", "abc");
  EXPECT_EQ(*file_digest(dir / "file"), digest("abc"));
  write_file(dir / "file", std::string(3000000, 'x'));
  EXPECT_EQ(*file_digest(dir / "file"), digest(std::string(3000000, 'x')));
  EXPECT_FALSE(file_digest(dir.path()).ok());
  EXPECT_EQ(file_digest(dir / "none").status().code(), absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace kascade
