// Tests GGUF files of Llamas: names, shapes, row order, configuration, tokenizer, and each refusal.
// The published TinyStories model is compared with its Hugging Face original.
#include "tools/convert/gguf_source.h"

#include <cmath>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "engine/backend/block_formats.h"
#include "engine/model/safetensors.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/gguf_writer.h"
#include "tests/support/shared_data.h"
#include "tests/support/tiny_model.h"
#include "tools/convert/gguf_config.h"
#include "tools/convert/gguf_vocabulary.h"

namespace kascade::convert {
namespace {

using nlohmann::json;
using ::testing::AllOf;
using ::testing::ElementsAre;
using testing::GgufWriter;
using ::testing::HasSubstr;
using testing::raw_bytes;
using testing::TempDir;

constexpr int kHidden = 32;
constexpr int kIntermediate = 64;
constexpr int kHeadDim = 8;  // four query heads, two KV heads
constexpr int kVocab = 8;

std::string floats(int count, float first) {
  std::string bytes;
  for (int i = 0; i < count; ++i) bytes += raw_bytes(first + static_cast<float>(i));
  return bytes;
}

// Two layers, f32; element i of the n-th matrix is 10,000 n + i.
GgufWriter tiny() {
  GgufWriter writer;
  writer.set("general.architecture", "llama")
      .set("llama.block_count", 2u)
      .set("llama.context_length", 512u)
      .set("llama.embedding_length", uint32_t{kHidden})
      .set("llama.feed_forward_length", uint32_t{kIntermediate})
      .set("llama.attention.head_count", 4u)
      .set("llama.attention.head_count_kv", 2u)
      .set("llama.attention.layer_norm_rms_epsilon", 1e-5f)
      .set("tokenizer.ggml.model", "llama")
      .set("tokenizer.ggml.tokens",
           std::vector<std::string>{"<unk>", "<s>", "</s>", "\u2581", "a", "b", "ab", "\u2581a"})
      .set("tokenizer.ggml.scores", std::vector<float>{0, 0, 0, -3, -4, -5, -1, -2})
      .set("tokenizer.ggml.token_type", std::vector<int32_t>{2, 3, 3, 1, 1, 1, 1, 1})
      .set("tokenizer.ggml.bos_token_id", 1u)
      .set("tokenizer.ggml.eos_token_id", 2u);
  float first = 0;
  const auto add = [&](const std::string& name, uint64_t rows, uint64_t cols) {
    std::vector<uint64_t> dimensions = {cols};
    if (rows > 0) dimensions.push_back(rows);
    writer.tensor({name + ".weight", dimensions, 0,
                   floats(static_cast<int>(cols * std::max<uint64_t>(rows, 1)), first)});
    first += 10000;
  };
  add("token_embd", kVocab, kHidden);
  for (int layer = 0; layer < 2; ++layer) {
    const std::string prefix = absl::StrCat("blk.", layer, ".");
    add(prefix + "attn_norm", 0, kHidden);
    add(prefix + "attn_q", 32, kHidden);
    add(prefix + "attn_k", 16, kHidden);
    add(prefix + "attn_v", 16, kHidden);
    add(prefix + "attn_output", kHidden, 32);
    add(prefix + "ffn_norm", 0, kHidden);
    add(prefix + "ffn_gate", kIntermediate, kHidden);
    add(prefix + "ffn_up", kIntermediate, kHidden);
    add(prefix + "ffn_down", kHidden, kIntermediate);
  }
  add("output_norm", 0, kHidden);
  add("output", kVocab, kHidden);
  return writer;
}

// The source with the bytes that it reads.
struct Opened {
  std::string bytes;
  absl::StatusOr<std::unique_ptr<Source>> source;

  Source& operator*() const { return **source; }
  Source* operator->() const { return source->get(); }
};
std::unique_ptr<Opened> open(const GgufWriter& writer, const SourceOptions& options = {}) {
  auto opened = std::make_unique<Opened>(Opened{writer.file(), absl::UnknownError("")});
  opened->source = gguf_source(std::as_bytes(std::span(opened->bytes)), "dir/x.gguf", options);
  return opened;
}
std::string error_of(const GgufWriter& writer) {
  const auto opened = open(writer);
  return opened->source.ok() ? "accepted" : opened->source.status().ToString();
}
ModelConfig config_of(const GgufWriter& writer) {
  const auto opened = open(writer);
  EXPECT_TRUE(opened->source.ok()) << opened->source.status();
  return opened->source.ok() ? (*opened)->config() : ModelConfig();
}

std::vector<float> read(Source& source, size_t index) {
  const SourceTensor& tensor = source.tensors()[index];
  std::vector<float> values(static_cast<size_t>(tensor.elements()));
  if (has_blocks(tensor.dtype)) {
    std::vector<std::byte> blocks(static_cast<size_t>(tensor.bytes()));
    EXPECT_TRUE(source.read(index, blocks).ok());
    dequantize_row(tensor.dtype, blocks.data(), tensor.elements(), values.data());
  } else {
    EXPECT_TRUE(source.read(index, std::as_writable_bytes(std::span(values))).ok());
  }
  return values;
}
size_t index_of(const Source& source, const std::string& name) {
  for (size_t i = 0; i < source.tensors().size(); ++i) {
    if (source.tensors()[i].name == name) return i;
  }
  ADD_FAILURE() << "no tensor " << name;
  return 0;
}

TEST(GgufSource, GivesEveryTensorItsValues) {
  const auto opened = open(tiny());
  ASSERT_TRUE(opened->source.ok()) << opened->source.status();
  Source& source = **opened;
  EXPECT_EQ(source.family(), "GGUF v3, F32");
  ASSERT_EQ(source.tensors().size(), 1u + 2 * 9 + 2);
  // In Hugging Face's order, the n-th matrix of tiny() where no rows change places.
  for (size_t i = 0; i < source.tensors().size(); ++i) {
    const SourceTensor& tensor = source.tensors()[i];
    EXPECT_EQ(tensor.dtype, DType::kF32);
    if (tensor.name.find("q_proj") != std::string::npos) continue;
    if (tensor.name.find("k_proj") != std::string::npos) continue;
    const auto values = read(source, i);
    for (size_t j = 0; j < values.size(); ++j) {
      ASSERT_EQ(values[j], static_cast<float>(i * 10000 + j)) << tensor.name;
    }
  }
  EXPECT_EQ(source.tensors()[0].name, "model.embed_tokens.weight");
  EXPECT_THAT(source.tensors()[0].shape, ElementsAre(kVocab, kHidden));
  EXPECT_EQ(source.tensors()[1].name, "model.layers.0.input_layernorm.weight");
  EXPECT_THAT(source.tensors()[1].shape, ElementsAre(kHidden));
  EXPECT_EQ(source.tensors()[5].name, "model.layers.0.self_attn.o_proj.weight");
  EXPECT_EQ(source.tensors()[6].name, "model.layers.0.post_attention_layernorm.weight");
  EXPECT_EQ(source.tensors()[7].name, "model.layers.0.mlp.gate_proj.weight");
  EXPECT_EQ(source.tensors()[8].name, "model.layers.0.mlp.up_proj.weight");
  EXPECT_EQ(source.tensors()[9].name, "model.layers.0.mlp.down_proj.weight");
  EXPECT_THAT(source.tensors()[9].shape, ElementsAre(kHidden, kIntermediate));
  EXPECT_EQ(source.tensors()[19].name, "model.norm.weight");
  EXPECT_EQ(source.tensors()[20].name, "lm_head.weight");
}

TEST(GgufSource, PutsTheRotaryRowsInOrder) {
  const auto opened = open(tiny());
  ASSERT_TRUE(opened->source.ok()) << opened->source.status();
  // Eight rows of a head come as pairs (0 1) (2 3) (4 5) (6 7).
  const int in_head[] = {0, 2, 4, 6, 1, 3, 5, 7};
  const auto check = [&](const std::string& name, int number, int rows) {
    const auto values = read(**opened, index_of(**opened, name));
    for (int row = 0; row < rows; ++row) {
      const int stored = row / kHeadDim * kHeadDim + in_head[row % kHeadDim];
      EXPECT_EQ(values[static_cast<size_t>(row * kHidden)],
                static_cast<float>(number * 10000 + stored * kHidden))
          << name << " row " << row;
    }
  };
  check("model.layers.0.self_attn.q_proj.weight", 2, 32);
  check("model.layers.1.self_attn.q_proj.weight", 11, 32);
  check("model.layers.0.self_attn.k_proj.weight", 3, 16);
}

TEST(GgufSource, QuantisedRowsMoveAsAWhole) {
  GgufWriter writer = tiny();
  std::string blocks;
  for (int row = 0; row < 32; ++row) {
    blocks += raw_bytes(uint16_t{0x3c00}) + std::string(32, static_cast<char>(row));  // scale 1
  }
  auto& tensor = writer.find_tensor("blk.1.attn_q.weight");
  tensor.type = 8;
  tensor.bytes = blocks;
  auto& half = writer.find_tensor("blk.1.attn_k.weight");
  half.type = 1;
  half.bytes = std::string(16 * kHidden * 2, '\x3c');
  const auto opened = open(writer);
  ASSERT_TRUE(opened->source.ok()) << opened->source.status();
  const size_t query = index_of(**opened, "model.layers.1.self_attn.q_proj.weight");
  EXPECT_EQ((*opened)->tensors()[query].dtype, DType::kQ8_0);
  const auto values = read(**opened, query);
  EXPECT_EQ(values[kHidden], 2);
  EXPECT_EQ(values[4 * kHidden + 31], 1);
  EXPECT_EQ(values[31 * kHidden], 31);
  const size_t key = index_of(**opened, "model.layers.1.self_attn.k_proj.weight");
  EXPECT_EQ((*opened)->tensors()[key].dtype, DType::kF16);
  std::vector<std::byte> bytes(16 * kHidden * 2);
  ASSERT_TRUE((*opened)->read(key, bytes).ok());
  EXPECT_EQ(bytes.back(), std::byte{0x3c});
}

TEST(GgufConfig, ReadsTheMetadata) {
  const ModelConfig config = config_of(tiny());
  EXPECT_EQ(config.name, "x");
  EXPECT_EQ(config.layers, 2);
  EXPECT_EQ(config.hidden, kHidden);
  EXPECT_EQ(config.intermediate, kIntermediate);
  EXPECT_EQ(config.heads, 4);
  EXPECT_EQ(config.kv_heads, 2);
  EXPECT_EQ(config.head_dim, kHeadDim);
  EXPECT_EQ(config.vocab, kVocab);
  EXPECT_EQ(config.context, 512);
  EXPECT_EQ(config.norm_eps, 1e-5);
  EXPECT_EQ(config.rope_theta, 10000);
  EXPECT_FALSE(config.rope_scaling.has_value());
  EXPECT_FALSE(config.tied_head);
  EXPECT_EQ(config.bos_token, 1);
  EXPECT_THAT(config.eos_tokens, ElementsAre(2));
}

TEST(GgufConfig, ReadsWhatMayBeAbsent) {
  const ModelConfig config =
      config_of(tiny()
                    .erase_tensor("output.weight")
                    .set("llama.rope.freq_base", 500000.f)
                    .set("llama.rope.dimension_count", uint32_t{kHeadDim})
                    .set("llama.rope.scaling.type", "none")
                    .set("llama.attention.head_count_kv", std::vector<int32_t>{2, 2})
                    .set("llama.attention.key_length", uint32_t{kHeadDim})
                    .set("llama.attention.value_length", uint32_t{kHeadDim})
                    .set("llama.expert_count", 0u)
                    .set("llama.vocab_size", uint32_t{kVocab})
                    .set("tokenizer.ggml.eot_token_id", 6u)
                    .set("tokenizer.ggml.eom_token_id", 2u));
  EXPECT_TRUE(config.tied_head);
  EXPECT_EQ(config.rope_theta, 500000);
  EXPECT_EQ(config.kv_heads, 2);
  EXPECT_THAT(config.eos_tokens, ElementsAre(2, 6));
}

// A head size that is not hidden / heads.
TEST(GgufConfig, TheHeadSizeMayBeItsOwn) {
  GgufWriter writer =
      tiny().set("llama.attention.key_length", 4u).set("llama.attention.value_length", 4u);
  for (const char* layer : {"blk.0.", "blk.1."}) {
    for (const auto& [name, rows] : {std::pair{"attn_q", 16}, {"attn_k", 8}, {"attn_v", 8}}) {
      auto& tensor = writer.find_tensor(absl::StrCat(layer, name, ".weight"));
      tensor.dimensions = {kHidden, static_cast<uint64_t>(rows)};
      tensor.bytes.resize(static_cast<size_t>(kHidden * rows * 4));
    }
    writer.find_tensor(absl::StrCat(layer, "attn_output.weight")).dimensions = {16, kHidden};
  }
  EXPECT_EQ(config_of(writer).head_dim, 4);
}

TEST(GgufConfig, RefusesWhatIsNoLlama) {
  EXPECT_THAT(error_of(tiny().set("general.architecture", "gemma2")),
              HasSubstr("UNIMPLEMENTED: dir/x.gguf: general.architecture: only \"granite\", "
                        "\"llama\", \"phi3\", \"qwen2\" or \"qwen3\" is supported, found "
                        "\"gemma2\""));
  EXPECT_THAT(error_of(tiny().erase("general.architecture")),
              HasSubstr("general.architecture: is missing"));
  EXPECT_THAT(error_of(tiny().set("general.architecture", 1u)),
              HasSubstr("general.architecture: expected a string, found 1"));
  EXPECT_THAT(error_of(tiny().set("general.type", "adapter")),
              HasSubstr("general.type: only \"model\" is supported, found \"adapter\""));
}

TEST(GgufConfig, NamesPartsOfASplitModel) {
  EXPECT_THAT(error_of(tiny().set("split.count", 2u)),
              HasSubstr("split.count: only a model in one file"));
  EXPECT_THAT(error_of(tiny().set("split.count", 3u).set("split.no", 0u)),
              HasSubstr("found part 1 of 3"));
  // llama-gguf-split --no-tensor-first-split puts all tensors into later parts.
  GgufWriter first;
  first.set("general.architecture", "llama");
  EXPECT_THAT(error_of(first), HasSubstr("holds a vocabulary only"));
  EXPECT_THAT(error_of(first.set("split.count", 3u).set("split.no", 0u)),
              HasSubstr("split.count: only a model in one file"));
  // Later parts have no metadata but their number.
  GgufWriter later = tiny();
  later.erase("general.architecture");
  constexpr uint32_t kUint16 = 2;  // the type that llama-gguf-split writes
  EXPECT_THAT(error_of(later.set_raw("split.count", kUint16, testing::raw_bytes(uint16_t{2}))
                           .set_raw("split.no", kUint16, testing::raw_bytes(uint16_t{1}))),
              HasSubstr("found part 2 of 2"));
  EXPECT_EQ(error_of(tiny().set("split.count", 1u).set("split.no", 0u)), "accepted");
}

TEST(GgufConfig, RefusesVariants) {
  EXPECT_THAT(error_of(tiny().set("llama.expert_count", 8u)),
              HasSubstr("UNIMPLEMENTED: dir/x.gguf: llama.expert_count: only 0 is supported, "
                        "found 8"));
  for (const char* key :
       {"llama.attention.scale", "llama.logit_scale", "llama.rope.scale_linear",
        "llama.embedding_scale", "llama.residual_scale", "llama.attention.clamp_kqv"}) {
    EXPECT_THAT(error_of(tiny().set(key, 2.f)),
                HasSubstr(absl::StrCat(key, ": only its absence is supported")));
  }
  EXPECT_THAT(error_of(tiny().set("llama.rope.scaling.type", "longrope")),
              HasSubstr("llama.rope.scaling.type: only \"none\", \"linear\", \"yarn\" or "
                        "rope_freqs.weight is supported, found \"longrope\""));
  EXPECT_THAT(error_of(tiny().set("llama.rope.scaling.factor", 0.5f)),
              HasSubstr("llama.rope.scaling.factor: expected 1..1e6, found 0.5"));
  EXPECT_THAT(
      error_of(tiny().set("llama.rope.dimension_count", 4u)),
      HasSubstr("llama.rope.dimension_count: only the head size, 8, is supported, found 4"));
  EXPECT_THAT(error_of(tiny().set("llama.attention.value_length", 16u)),
              HasSubstr("llama.attention.value_length: only the head size, 8,"));
  EXPECT_THAT(error_of(tiny().set("llama.attention.head_count_kv", std::vector<int32_t>{2, 1})),
              HasSubstr("llama.attention.head_count_kv: only the same value in all layers, 2, is "
                        "supported, found 1 in layer 1"));
}

TEST(GgufConfig, RefusesSizesThatMakeNoSense) {
  for (const char* key : {"llama.block_count", "llama.context_length", "llama.embedding_length",
                          "llama.feed_forward_length", "llama.attention.head_count",
                          "llama.attention.layer_norm_rms_epsilon"}) {
    EXPECT_THAT(error_of(tiny().erase(key)), HasSubstr(absl::StrCat(key, ": is missing")));
    EXPECT_THAT(error_of(tiny().set(key, "2")), HasSubstr(absl::StrCat(key, ": expected a")));
  }
  EXPECT_THAT(error_of(tiny().set("llama.block_count", 4000000000u)),
              HasSubstr("llama.block_count: expected 1..1024, found 4000000000"));
  EXPECT_THAT(error_of(tiny().set("llama.attention.head_count", 0u)),
              HasSubstr("llama.attention.head_count: expected 1..4096, found 0"));
  EXPECT_THAT(error_of(tiny().set("llama.attention.head_count", 5u)),
              HasSubstr("llama.embedding_length: expected a multiple of 5 heads, found 32"));
  EXPECT_THAT(error_of(tiny().set("llama.attention.head_count_kv", 3u)),
              HasSubstr("llama.attention.head_count_kv: expected a divisor of 4 heads, found 3"));
  EXPECT_THAT(error_of(tiny().set("llama.attention.head_count_kv", std::vector<int32_t>{})),
              HasSubstr("llama.attention.head_count_kv: expected integers, found an array of 0"));
  EXPECT_THAT(error_of(tiny().set("llama.attention.layer_norm_rms_epsilon", 1.f)),
              HasSubstr("layer_norm_rms_epsilon: expected a number in 1e-12..0.1, found 1"));
  EXPECT_THAT(error_of(tiny().set("llama.rope.freq_base", std::nanf(""))),
              HasSubstr("llama.rope.freq_base: expected a number in 1..1e+15, found nan"));
  EXPECT_THAT(error_of(tiny().set("llama.vocab_size", 9u)),
              HasSubstr("llama.vocab_size: expected the rows of token_embd.weight, 8, found 9"));
  EXPECT_THAT(error_of(tiny().set("tokenizer.ggml.eos_token_id", 8u)),
              HasSubstr("tokenizer.ggml.eos_token_id: expected an id below 8, found 8"));
  EXPECT_THAT(error_of(tiny().set("tokenizer.ggml.bos_token_id", ~0u)),
              HasSubstr("tokenizer.ggml.bos_token_id: expected an id below 8, found 4294967295"));
}

TEST(GgufSource, RefusesOtherTensors) {
  EXPECT_THAT(error_of(tiny().tensor({"blk.0.ffn_up.bias", {64}, 0, floats(64, 0)})),
              HasSubstr("UNIMPLEMENTED: dir/x.gguf: tensor \"blk.0.ffn_up.bias\": is not one of "
                        "the 21 tensors of this model, which is a llama"));
  // A bias of attention makes it a Llama with attention_bias, which has them all.
  EXPECT_THAT(error_of(tiny().tensor({"blk.0.attn_q.bias", {32}, 0, floats(32, 0)})),
              HasSubstr("tensor \"blk.0.attn_k.bias\": is missing"));
  EXPECT_THAT(
      error_of(tiny().erase_tensor("blk.1.ffn_up.weight")),
      HasSubstr("INVALID_ARGUMENT: dir/x.gguf: tensor \"blk.1.ffn_up.weight\": is missing"));
  EXPECT_THAT(error_of(tiny().erase_tensor("token_embd.weight")),
              HasSubstr("tensor \"token_embd.weight\": is missing"));
  GgufWriter turned = tiny();
  turned.find_tensor("blk.1.ffn_up.weight").dimensions = {kIntermediate, kHidden};
  EXPECT_THAT(error_of(turned), HasSubstr("tensor \"blk.1.ffn_up.weight\": expected shape 64 x 32, "
                                          "found 32 x 64"));
  for (const auto& [type, name] : {std::pair{10u, "Q2_K"},
                                   {23u, "IQ4_XS"},
                                   {39u, "MXFP4"},
                                   {35u, "TQ2_0"},
                                   {99u, "type 99"}}) {
    GgufWriter other = tiny();
    other.find_tensor("blk.0.ffn_down.weight").type = type;
    EXPECT_THAT(error_of(other),
                AllOf(HasSubstr(absl::StrCat("UNIMPLEMENTED: dir/x.gguf: tensor "
                                             "\"blk.0.ffn_down.weight\": ",
                                             name, " is not read; supported: F32, F16")),
                      HasSubstr("take a file of the same model in one of these, such as Q8_0")));
  }
}

// ---- Llama 3's rope scaling
// ----------------------------------------------------------------------

// What llama.cpp stores: by what each frequency is divided.
std::vector<float> divisors(double factor, int head_dim, double theta) {
  std::vector<float> values;
  for (int pair = 0; pair < head_dim / 2; ++pair) {
    const double wavelength = 2 * 3.14159265358979 * std::pow(theta, 2.0 * pair / head_dim);
    double divisor = 1;
    if (wavelength > 8192) {
      divisor = factor;
    } else if (wavelength > 8192.0 / 4) {
      const double smooth = (8192 / wavelength - 1) / 3;
      divisor = 1 / ((1 - smooth) / factor + smooth);
    }
    values.push_back(static_cast<float>(divisor));
  }
  return values;
}

TEST(RopeScaling, TheFactorIsRecovered) {
  for (const int head_dim : {64, 128}) {
    for (const double factor : {8.0, 32.0, 2.5}) {
      ModelConfig config;
      config.head_dim = head_dim;
      config.rope_theta = 500000;
      const auto scaling = recover_rope_scaling(divisors(factor, head_dim, 500000), config);
      ASSERT_TRUE(scaling.ok()) << scaling.status();
      EXPECT_EQ(*scaling, (Llama3RopeScaling{.factor = factor}));
    }
  }
}

TEST(RopeScaling, NoDivisionIsNone) {
  ModelConfig config;
  config.head_dim = 8;
  for (const double theta : {10.0, 500000.0}) {
    config.rope_theta = theta;
    const auto scaling = recover_rope_scaling(std::vector<float>(4, 1.f), config);
    ASSERT_TRUE(scaling.ok()) << scaling.status();
    EXPECT_FALSE(scaling->has_value());
  }
}

TEST(RopeScaling, OthersAreRefused) {
  ModelConfig config;
  config.head_dim = 64;
  config.rope_theta = 500000;
  const auto refused = [&](const std::vector<float>& values) {
    const auto scaling = recover_rope_scaling(values, config);
    return scaling.ok() ? "accepted" : scaling.status().ToString();
  };
  auto values = divisors(8, 64, 500000);
  values[16] *= 1.0003f;
  EXPECT_THAT(
      refused(values),
      HasSubstr("UNIMPLEMENTED: tensor \"rope_freqs.weight\": only Llama 3's scaling from a "
                "context of 8192 is supported: with factor 8 expected "));
  EXPECT_THAT(refused(values), HasSubstr("for pair 16"));
  for (const float value : {0.f, -1.f, 0.5f, std::nanf(""), INFINITY}) {
    EXPECT_NE(refused(std::vector<float>(32, value)), "accepted") << value;
  }
  config.rope_theta = 10;  // nothing turns slowly enough to be divided
  EXPECT_THAT(refused(std::vector<float>(32, 8.f)), HasSubstr("expected 1 for pair 0, found 8"));
}

TEST(RopeScaling, IsPartOfTheConfiguration) {
  GgufWriter writer = tiny().set("llama.rope.freq_base", 500000.f);
  writer.tensor({"rope_freqs.weight", {4}, 0, raw_bytes(divisors(32, 8, 500000))});
  EXPECT_EQ(config_of(writer).rope_scaling, RopeScaling(Llama3RopeScaling{.factor = 32}));
  EXPECT_THAT((*open(writer))->decisions(),
              ElementsAre("rope factor 32: it explains rope_freqs.weight"));
  const auto demanded = open(writer, {.rope_factor = 8});
  ASSERT_TRUE(demanded->source.ok());
  EXPECT_EQ(factor_of(*(*demanded)->config().rope_scaling), 8);
  EXPECT_THAT((*demanded)->decisions(), ElementsAre("rope factor 8: as demanded"));
  const auto none = open(writer, {.rope_factor = 1});
  ASSERT_TRUE(none->source.ok());
  EXPECT_FALSE((*none)->config().rope_scaling.has_value());
  EXPECT_THAT(open(writer, {.rope_factor = 0})->source.status().ToString(),
              HasSubstr("rope factor: expected a number in 1..1e38, found 0"));
  writer.find_tensor("rope_freqs.weight").dimensions = {3};
  EXPECT_THAT(error_of(writer), HasSubstr("tensor \"rope_freqs.weight\": expected 4 values of F32, "
                                          "found 3 of F32"));
}

// ---- Tokenizer and other files
// -------------------------------------------------------------------

std::string side_file(const Source& source, const std::string& name) {
  for (const SideFile& file : source.side_files()) {
    if (file.name == name) return file.content;
  }
  return "none";
}

TEST(GgufSideFiles, AreMadeFromTheMetadata) {
  const auto opened = open(tiny()
                               .set("tokenizer.chat_template", "{{ bos_token }} \u00e9")
                               .set("tokenizer.ggml.eot_token_id", 6u)
                               .set("tokenizer.ggml.add_eos_token", true)
                               .set("general.name", "Tiny \n one"));
  ASSERT_TRUE(opened->source.ok()) << opened->source.status();
  EXPECT_THAT(side_file(**opened, "tokenizer.json"), HasSubstr("\"model\""));
  EXPECT_EQ(json::parse(side_file(**opened, "generation_config.json")),
            json({{"bos_token_id", 1}, {"eos_token_id", {2, 6}}}));
  EXPECT_EQ(json::parse(side_file(**opened, "tokenizer_config.json")),
            json({{"chat_template", "{{ bos_token }} \u00e9"}}));
  EXPECT_THAT((*opened)->decisions(),
              ElementsAre("general.name \"Tiny \\n one\"",
                          "tokenizer.ggml.add_eos_token is left out: a prompt must not end"));
  EXPECT_EQ(side_file(**open(tiny()), "tokenizer_config.json"), "none");
  EXPECT_EQ(json::parse(side_file(**open(tiny()), "generation_config.json"))["eos_token_id"], 2);
}

TEST(GgufSideFiles, BadOnesAreRefused) {
  EXPECT_THAT(error_of(tiny().set("tokenizer.chat_template", "\xff")),
              HasSubstr("tokenizer.chat_template: expected UTF-8"));
  EXPECT_THAT(error_of(tiny().erase("tokenizer.ggml.model")),
              HasSubstr("tokenizer.ggml.model: is missing"));
  EXPECT_THAT(error_of(tiny().set("tokenizer.ggml.model", "t5")),
              HasSubstr("UNIMPLEMENTED: dir/x.gguf: tokenizer.ggml.model: only \"llama\" or "
                        "\"gpt2\" is supported, found \"t5\""));
  EXPECT_THAT(error_of(tiny().erase("tokenizer.ggml.scores")),
              HasSubstr("tokenizer.ggml.scores: is missing"));
  EXPECT_THAT(error_of(tiny().set("tokenizer.ggml.scores", std::vector<float>{1})),
              HasSubstr("tokenizer.ggml.scores: expected an array of 8, found an array of 1"));
  EXPECT_THAT(error_of(tiny().set("tokenizer.ggml.scores", std::vector<int32_t>(8))),
              HasSubstr("tokenizer.ggml.scores: expected an array of f32"));
  EXPECT_THAT(error_of(tiny().set("tokenizer.ggml.token_type",
                                  std::vector<int32_t>{2, 3, 3, 1, 1, 1, 1, 7})),
              HasSubstr("tokenizer.ggml.token_type[7]: expected a number in 1..6, found 7"));
  EXPECT_THAT(error_of(tiny().set("tokenizer.ggml.tokens", "a")),
              HasSubstr("tokenizer.ggml.tokens: expected an array of at most 1048576 strings"));
  EXPECT_THAT(
      error_of(
          tiny()
              .set("tokenizer.ggml.tokens",
                   std::vector<std::string>{"<unk>", "<s>", "</s>", "a", "b", "c", "d", "e", "f"})
              .set("tokenizer.ggml.scores", std::vector<float>(9))
              .set("tokenizer.ggml.token_type", std::vector<int32_t>{2, 3, 3, 1, 1, 1, 1, 1, 1})),
      HasSubstr("tokenizer.ggml.tokens: expected at most the 8 rows of token_embd.weight, "
                "found 9"));
}

absl::StatusOr<GgufVocabulary> vocabulary_of(const GgufWriter& writer) {
  const std::string bytes = writer.file();
  const auto file = GgufFile::parse(std::as_bytes(std::span(bytes)), "x.gguf");
  if (!file.ok()) return file.status();
  return gguf_vocabulary(*file);
}

TEST(GgufVocabulary, SentencePiece) {
  const auto read = vocabulary_of(tiny());
  ASSERT_TRUE(read.ok()) << read.status();
  const auto& vocabulary = std::get<SentencePieceVocabulary>(*read);
  ASSERT_EQ(vocabulary.pieces.size(), 8u);
  EXPECT_EQ(vocabulary.pieces[0].type, PieceType::kUnknown);
  EXPECT_EQ(vocabulary.pieces[7].text, "\u2581a");
  EXPECT_EQ(vocabulary.pieces[7].score, -2);
  EXPECT_EQ(vocabulary.bos, 1);
  EXPECT_TRUE(vocabulary.add_bos);
  EXPECT_TRUE(vocabulary.add_dummy_prefix);
  const auto other = vocabulary_of(tiny()
                                       .set("tokenizer.ggml.add_bos_token", false)
                                       .set("tokenizer.ggml.add_space_prefix", false));
  EXPECT_FALSE(std::get<SentencePieceVocabulary>(*other).add_bos);
  EXPECT_FALSE(std::get<SentencePieceVocabulary>(*other).add_dummy_prefix);
  const auto without = vocabulary_of(tiny().erase("tokenizer.ggml.bos_token_id"));
  EXPECT_FALSE(std::get<SentencePieceVocabulary>(*without).add_bos);
  EXPECT_THAT(
      vocabulary_of(
          tiny().erase("tokenizer.ggml.bos_token_id").set("tokenizer.ggml.add_bos_token", true))
          .status()
          .ToString(),
      HasSubstr("tokenizer.ggml.bos_token_id: is missing"));
}

TEST(GgufVocabulary, ByteLevel) {
  const auto writer = [](const char* pre) {
    return GgufWriter()
        .set("tokenizer.ggml.model", "gpt2")
        .set("tokenizer.ggml.pre", pre)
        .set("tokenizer.ggml.tokens", std::vector<std::string>{"a", "b", "ab", "<e>"})
        .set("tokenizer.ggml.token_type", std::vector<int32_t>{1, 1, 1, 3})
        .set("tokenizer.ggml.merges", std::vector<std::string>{"a b"})
        .set("tokenizer.ggml.bos_token_id", 3u);
  };
  auto read = vocabulary_of(writer("gpt-2"));
  ASSERT_TRUE(read.ok()) << read.status();
  const auto& gpt2 = std::get<ByteLevelVocabulary>(*read);
  EXPECT_EQ(gpt2.tokens.size(), 4u);
  EXPECT_EQ(gpt2.tokens[3].type, PieceType::kControl);
  EXPECT_THAT(gpt2.merges, ElementsAre("a b"));
  EXPECT_EQ(gpt2.pre_tokenizer, "gpt-2");
  EXPECT_EQ(gpt2.bos, 3);
  EXPECT_FALSE(gpt2.add_bos);
  EXPECT_FALSE(gpt2.ignore_merges);
  read = vocabulary_of(writer("llama-bpe"));
  EXPECT_TRUE(std::get<ByteLevelVocabulary>(*read).add_bos);
  EXPECT_TRUE(std::get<ByteLevelVocabulary>(*read).ignore_merges);
  EXPECT_THAT(vocabulary_of(writer("gpt-2").erase("tokenizer.ggml.pre")).status().ToString(),
              HasSubstr("tokenizer.ggml.pre: is missing"));
  EXPECT_THAT(vocabulary_of(writer("gpt-2").erase("tokenizer.ggml.merges")).status().ToString(),
              HasSubstr("tokenizer.ggml.merges: is missing"));
}

// ---- Files
// ---------------------------------------------------------------------------------------

TEST(OpenGguf, KeepsTheFileMapped) {
  TempDir folder;
  testing::write_file(folder / "tiny.gguf", tiny().file());
  const auto source = open_gguf(folder / "tiny.gguf", {});
  ASSERT_TRUE(source.ok()) << source.status();
  EXPECT_EQ((*source)->config().name, "tiny");
  EXPECT_THAT((*source)->inputs(), ElementsAre(folder / "tiny.gguf"));
  EXPECT_EQ(read(**source, 20)[0], 200000);
  EXPECT_TRUE(absl::IsNotFound(open_gguf(folder / "absent.gguf", {}).status()));
}

TEST(OpenGguf, ACutFileIsAnError) {
  const std::string bytes = tiny().file();
  for (size_t length = 0; length < bytes.size(); length += length < 4000 ? 1 : 97) {
    const auto all = std::as_bytes(std::span(bytes));
    const std::vector<std::byte> cut(all.begin(), all.begin() + static_cast<ptrdiff_t>(length));
    ASSERT_FALSE(gguf_source(cut, "x.gguf", {}).ok()) << length;
  }
}

TEST(OpenGguf, AVocabularyAloneIsNoModel) {
  KASCADE_NEEDS_DATA("tokenizers/llama2");
  for (const char* name : {"llama2/ggml-vocab-llama-spm.gguf", "gpt2/ggml-vocab-gpt-2.gguf"}) {
    EXPECT_THAT(open_gguf(testing::shared_data() / "tokenizers" / name, {}).status().ToString(),
                HasSubstr("has no tensors: it holds a vocabulary only, not a model's weights"));
  }
}

// The largest difference that Q8_0 makes in a block of 32: half a step, and the rounding of the
// scale to f16.
float q8_0_error(const float* values) {
  float largest = 0;
  for (int i = 0; i < 32; ++i) largest = std::max(largest, std::abs(values[i]));
  return largest / 127 * 0.5f * 1.001f + largest / 2048;
}

TEST(OpenGguf, ThePublishedModelIsItsOriginal) {
  KASCADE_NEEDS_DATA("models/tinystories-656k");
  const auto folder = testing::shared_data() / "models/tinystories-656k";
  const auto source = open_gguf(folder / "TinyStories-656K-Q8_0.gguf", {});
  ASSERT_TRUE(source.ok()) << source.status();
  EXPECT_EQ((*source)->family(), "GGUF v3, Q8_0");
  const auto original = Safetensors::open_folder(folder);
  ASSERT_TRUE(original.ok()) << original.status();
  ASSERT_EQ((*source)->tensors().size(), 20u);
  for (size_t i = 0; i < 20; ++i) {
    const SourceTensor& tensor = (*source)->tensors()[i];
    // This folder has the tied table under the head's name.
    const std::string name =
        tensor.name == "model.embed_tokens.weight" ? "lm_head.weight" : tensor.name;
    const auto found = (*original)->tensors().find(name);
    ASSERT_NE(found, (*original)->tensors().end()) << name;
    EXPECT_EQ(found->second.shape, tensor.shape) << name;
    const auto values = read(**source, i);
    std::vector<float> exact(values.size());
    std::memcpy(exact.data(), found->second.data, exact.size() * 4);
    if (tensor.shape.size() == 1) {
      EXPECT_EQ(values, exact) << name;
      continue;
    }
    for (size_t j = 0; j < values.size(); ++j) {
      ASSERT_NEAR(values[j], exact[j], q8_0_error(&exact[j / 32 * 32])) << name << ' ' << j;
    }
  }
}

TEST(OpenGguf, ThePublishedConfigurationIsTheOriginal) {
  KASCADE_NEEDS_DATA("models/tinystories-656k");
  const auto folder = testing::shared_data() / "models/tinystories-656k";
  const auto source = open_gguf(folder / "TinyStories-656K-Q8_0.gguf", {});
  ASSERT_TRUE(source.ok()) << source.status();
  const auto original = load_config(folder);
  ASSERT_TRUE(original.ok()) << original.status();
  const ModelConfig& config = (*source)->config();
  EXPECT_EQ(config.layers, original->layers);
  EXPECT_EQ(config.hidden, original->hidden);
  EXPECT_EQ(config.intermediate, original->intermediate);
  EXPECT_EQ(config.heads, original->heads);
  EXPECT_EQ(config.kv_heads, original->kv_heads);
  EXPECT_EQ(config.head_dim, original->head_dim);
  EXPECT_EQ(config.vocab, original->vocab);
  EXPECT_EQ(config.context, original->context);
  EXPECT_EQ(config.norm_eps, original->norm_eps);
  EXPECT_EQ(config.rope_theta, original->rope_theta);
  EXPECT_EQ(config.rope_scaling, original->rope_scaling);
  EXPECT_EQ(config.tied_head, original->tied_head);
  EXPECT_EQ(config.bos_token, original->bos_token);
  EXPECT_EQ(config.eos_tokens, original->eos_tokens);
}

}  // namespace
}  // namespace kascade::convert
