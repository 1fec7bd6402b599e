#include "engine/adapter/parameters.h"

#include <gtest/gtest.h>

#include <cstdint>

#include "engine/adapter/options.h"

namespace kascade {
namespace {

constexpr AdapterShape kLlama1B{
    .layers = 16, .hidden = 2048, .heads = 32, .kv_heads = 8, .head_dim = 64};

int64_t parameters(const AdapterOptions& options) {
  return layer_parameters(kLlama1B, options).size;
}

// The counts of the documents' table for a model with the shape of Llama 3.2 1B.
TEST(AdapterParameters, AreAsManyAsTheVariantsHave) {
  const AdapterOptions seed;
  EXPECT_EQ(parameters(seed), 9'127'008);
  AdapterOptions half = seed;
  half.mlp_expansion = 0.5;
  EXPECT_EQ(parameters(half), 4'670'560);
  AdapterOptions block8 = seed;
  block8.compress_block = block8.compress_stride = 8;
  EXPECT_EQ(parameters(block8), 2'565'216);
  AdapterOptions shared = seed;
  shared.shared_mlp = shared.shared_positions = true;
  EXPECT_EQ(parameters(shared), 1'321'056);
  AdapterOptions pooled = seed;
  pooled.value_compressor = Compressor::kMax;
  EXPECT_EQ(parameters(pooled), 214'112);
  AdapterOptions networks = seed;
  networks.key_compressor = Compressor::kMlp;
  EXPECT_EQ(parameters(networks), 18'039'904);
  AdapterOptions own_output = seed;
  own_output.own_output = true;
  EXPECT_EQ(parameters(own_output), 9'127'008 + 4'194'304);
  AdapterOptions whole = networks;
  whole.shared_mlp = whole.mlp_bias = whole.own_output = whole.own_projections = true;
  EXPECT_EQ(parameters(whole), 12'930'272);
}

TEST(AdapterParameters, LieOneBehindTheOther) {
  AdapterOptions options;
  options.key_compressor = Compressor::kMlp;
  options.mlp_bias = options.compressor_norm = options.own_output = true;
  const LayerParameters layer = layer_parameters(kLlama1B, options);
  int64_t end = 0;
  for (const AdapterTensor* tensor : layer.present()) {
    EXPECT_EQ(tensor->offset, end) << tensor->name;
    end += tensor->size();
    EXPECT_EQ(tensor->decays, tensor->name.ends_with("weight")) << tensor->name;
  }
  EXPECT_EQ(end, layer.size);
}

TEST(AdapterOptions, OutsideTheirLimitsAreNamed) {
  const auto message = [](auto change) {
    AdapterOptions options;
    change(options);
    return std::string(validate(options).message());
  };
  EXPECT_EQ(message([](AdapterOptions&) {}), "");
  EXPECT_EQ(message([](AdapterOptions& o) { o.compress_stride = 5; }),
            "compress_stride: must divide compress_block, which is 16; is 5");
  EXPECT_EQ(message([](AdapterOptions& o) { o.window = 0; }),
            "window: must be in [1, 1048576], is 0");
  EXPECT_EQ(message([](AdapterOptions& o) { o.selection_block = 8; }),
            "selection_block: must be at least compress_block (16) and a multiple of "
            "compress_stride (16), is 8");
  EXPECT_EQ(message([](AdapterOptions& o) { o.first_blocks = 4; }),
            "selected_blocks: must be at least first_blocks + local_blocks, which are 4 and 1; "
            "is 4");
  EXPECT_NE(message([](AdapterOptions& o) { o.gate_start[1] = 1e9; }), "");
  EXPECT_NE(message([](AdapterOptions& o) { o.mlp_expansion = 0.0 / 0.0; }), "");
}

TEST(AdapterOptions, AreNamed) {
  EXPECT_EQ(*compressor_named("mean_pool"), Compressor::kMean);
  EXPECT_EQ(*gate_named("softmax"), GateFunction::kSoftmax);
  EXPECT_FALSE(compressor_named("median").ok());
  EXPECT_FALSE(gate_named("").ok());
}

}  // namespace
}  // namespace kascade
