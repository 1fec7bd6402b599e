// Reading model folders: real ones, random ones in every storage variant, and damaged ones.
#include "engine/model/checkpoint.h"

#include <algorithm>
#include <cmath>
#include <fstream>

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
using testing::TempDir;
using testing::TinyModel;
using testing::TinyTable;

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
  EXPECT_EQ(config->layers, 12);
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
  EXPECT_EQ(checkpoint->layers.size(), 12u);
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

}  // namespace
}  // namespace kascade
