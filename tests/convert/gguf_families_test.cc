// Tests GGUF files of the model families other than Llama: the same model by safetensors and by
// GGUF is the same, tensor for tensor and key for key; and the refusals of these files.
#include <map>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/model/checkpoint.h"
#include "engine/model/config.h"
#include "engine/model/rope.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/gguf_writer.h"
#include "tests/support/tiny_model.h"
#include "tools/convert/convert.h"
#include "tools/convert/gguf_source.h"
#include "tools/convert/source.h"

namespace kascade::convert {
namespace {

using testing::GgufWriter;
using ::testing::HasSubstr;
using testing::RawTensor;
using testing::TempDir;
using testing::TinyModel;

// Names as llama.cpp writes them, without the number of the layer.
const std::map<std::string, std::string>& gguf_names() {
  static const std::map<std::string, std::string> kNames = {
      {"model.embed_tokens.", "token_embd."},
      {"model.norm.", "output_norm."},
      {"lm_head.", "output."},
      {"input_layernorm.", "attn_norm."},
      {"post_attention_layernorm.", "ffn_norm."},
      {"self_attn.q_proj.", "attn_q."},
      {"self_attn.k_proj.", "attn_k."},
      {"self_attn.v_proj.", "attn_v."},
      {"self_attn.qkv_proj.", "attn_qkv."},
      {"self_attn.o_proj.", "attn_output."},
      {"self_attn.q_norm.", "attn_q_norm."},
      {"self_attn.k_norm.", "attn_k_norm."},
      {"mlp.gate_proj.", "ffn_gate."},
      {"mlp.up_proj.", "ffn_up."},
      {"mlp.gate_up_proj.", "ffn_up."},
      {"mlp.down_proj.", "ffn_down."}};
  return kNames;
}

std::string gguf_name(const std::string& name) {
  std::string prefix, rest = name;
  if (name.starts_with("model.layers.")) {
    const size_t end = name.find('.', 13);
    prefix = "blk." + name.substr(13, end - 13) + ".";
    rest = name.substr(end + 1);
  }
  for (const auto& [from, to] : gguf_names()) {
    if (rest.starts_with(from)) return prefix + to + rest.substr(from.size());
  }
  ADD_FAILURE() << name;
  return name;
}

// The rows of a head in pairs of neighbours: row p of either half follows the other's.
std::string with_neighbouring_rows(const RawTensor& tensor, int32_t head_dim) {
  const size_t rows = static_cast<size_t>(tensor.shape[0]), bytes = tensor.bytes.size() / rows;
  const auto half = static_cast<size_t>(head_dim) / 2;
  std::string out;
  for (size_t head = 0; head < rows; head += 2 * half) {
    for (size_t pair = 0; pair < half; ++pair) {
      out += tensor.bytes.substr((head + pair) * bytes, bytes);
      out += tensor.bytes.substr((head + half + pair) * bytes, bytes);
    }
  }
  return out;
}

// The file that llama.cpp makes of a tiny model, with a small vocabulary of its own.
GgufWriter gguf_of(const TinyModel& model, const std::string& architecture) {
  const auto key = [&](const char* name) { return absl::StrCat(architecture, ".", name); };
  GgufWriter writer;
  writer.set("general.architecture", architecture)
      .set(key("block_count"), static_cast<uint32_t>(model.layers))
      .set(key("context_length"), static_cast<uint32_t>(model.context))
      .set(key("embedding_length"), static_cast<uint32_t>(model.hidden))
      .set(key("feed_forward_length"), static_cast<uint32_t>(model.intermediate))
      .set(key("attention.head_count"), static_cast<uint32_t>(model.heads))
      .set(key("attention.head_count_kv"), static_cast<uint32_t>(model.kv_heads))
      .set(key("attention.key_length"), static_cast<uint32_t>(model.head_dim))
      .set(key("attention.value_length"), static_cast<uint32_t>(model.head_dim))
      .set(key("attention.layer_norm_rms_epsilon"), 1e-5f)
      .set(key("rope.freq_base"), static_cast<float>(model.rope_theta))
      .set("tokenizer.ggml.model", "llama")
      .set("tokenizer.ggml.tokens", std::vector<std::string>{"<unk>", "<s>", "</s>", "a"})
      .set("tokenizer.ggml.scores", std::vector<float>{0, 0, 0, -1})
      .set("tokenizer.ggml.token_type", std::vector<int32_t>{2, 3, 3, 1})
      .set("tokenizer.ggml.bos_token_id", 1u)
      .set("tokenizer.ggml.eos_token_id", 2u);
  const bool permutes = architecture == "llama" || architecture == "granite";
  for (const RawTensor& tensor : testing::tiny_tensors(model)) {
    const bool is_rotated = tensor.name.find("q_proj.") != std::string::npos ||
                            tensor.name.find("k_proj.") != std::string::npos;
    writer.tensor(
        {gguf_name(tensor.name),
         {tensor.shape.rbegin(), tensor.shape.rend()},
         0,
         permutes && is_rotated ? with_neighbouring_rows(tensor, model.head_dim) : tensor.bytes});
  }
  return writer;
}

absl::Status convert_to(const std::filesystem::path& folder, const GgufWriter& writer) {
  const std::string bytes = writer.file();
  auto source = gguf_source(std::as_bytes(std::span(bytes)), "x.gguf", {});
  if (!source.ok()) return source.status();
  testing::write_file(folder / "x.gguf", bytes);
  source = open_gguf(folder / "x.gguf", {});
  if (!source.ok()) return source.status();
  return convert(**source, folder / "x.gguf", folder / "out", {}, [](const ConvertProgress&) {});
}

std::string error_of(const GgufWriter& writer) {
  const std::string bytes = writer.file();
  const auto source = gguf_source(std::as_bytes(std::span(bytes)), "x.gguf", {});
  return source.ok() ? "accepted" : std::string(source.status().message());
}

void expect_same_model(const std::filesystem::path& one, const std::filesystem::path& other) {
  const auto a = load_config(one), b = load_config(other);
  ASSERT_TRUE(a.ok() && b.ok()) << a.status() << b.status();
  EXPECT_EQ(a->model_type, b->model_type);
  EXPECT_EQ(rope_frequencies(*a), rope_frequencies(*b));
  EXPECT_EQ(rope_magnitude(*a), rope_magnitude(*b));
  EXPECT_EQ(a->context, b->context);
  EXPECT_EQ(a->sliding_window, b->sliding_window);
  EXPECT_EQ(a->qkv_bias, b->qkv_bias);
  EXPECT_EQ(a->attention_out_bias, b->attention_out_bias);
  EXPECT_EQ(a->head_norms, b->head_norms);
  EXPECT_EQ(a->embedding_multiplier, b->embedding_multiplier);
  EXPECT_EQ(a->attention_multiplier, b->attention_multiplier);
  EXPECT_EQ(a->residual_multiplier, b->residual_multiplier);
  EXPECT_EQ(a->logits_divisor, b->logits_divisor);
  EXPECT_EQ(a->norm_eps, b->norm_eps);
  const auto x = open_checkpoint(one, *a), y = open_checkpoint(other, *b);
  ASSERT_TRUE(x.ok() && y.ok()) << x.status() << y.status();
  // Equal names, shapes and bytes: these tensors are smaller than what the digest covers.
  EXPECT_EQ(x->weights_digest, y->weights_digest);
}

struct Road {
  TinyModel model;
  const char* architecture;
};
void PrintTo(const Road& road, std::ostream* out) { *out << road.model.model_type; }

class TwoRoads : public ::testing::TestWithParam<Road> {};

TEST_P(TwoRoads, LeadToTheSameModel) {
  const auto& [model, architecture] = GetParam();
  const TempDir dir;
  testing::write_tiny_model(model, dir / "original");
  GgufWriter writer = gguf_of(model, architecture);
  const auto key = [&](const char* name) { return absl::StrCat(architecture, ".", name); };
  if (model.sliding_window > 0) {
    writer.set(key("attention.sliding_window"), static_cast<uint32_t>(model.sliding_window));
  }
  if (model.model_type == "granite") {
    writer.set(key("embedding_scale"), 3.f)
        .set(key("attention.scale"), 0.125f)
        .set(key("residual_scale"), 0.25f)
        .set(key("logit_scale"), 2.f);
  }
  const absl::Status converted = convert_to(dir.path(), writer);
  ASSERT_TRUE(converted.ok()) << converted;
  expect_same_model(dir / "original", dir / "out");
}

INSTANTIATE_TEST_SUITE_P(
    Gguf, TwoRoads,
    ::testing::Values(Road{{.model_type = "llama", .biases = true}, "llama"},
                      Road{{.model_type = "mistral", .sliding_window = 33}, "llama"},
                      Road{{.model_type = "qwen2", .tied = true}, "qwen2"},
                      Road{{.model_type = "qwen3", .head_dim = 16}, "qwen3"},
                      Road{{.model_type = "qwen3", .biases = true}, "qwen3"},
                      Road{{.model_type = "granite", .tied = true}, "granite"},
                      Road{{.model_type = "phi3", .sliding_window = 99}, "phi3"}));

RopeScaling scaling_of(const GgufWriter& writer) {
  const std::string bytes = writer.file();
  const auto source = gguf_source(std::as_bytes(std::span(bytes)), "x.gguf", {});
  EXPECT_TRUE(source.ok()) << source.status();
  const auto scaling = source.ok() ? (*source)->config().rope_scaling : std::nullopt;
  return scaling.value_or(RopeScaling());
}

TEST(GgufRopeScaling, LinearAndYarn) {
  GgufWriter writer = gguf_of({.model_type = "qwen2"}, "qwen2");
  writer.set("qwen2.rope.scaling.factor", 4.f);
  EXPECT_EQ(scaling_of(writer), RopeScaling(LinearRopeScaling{.factor = 4}));
  writer.set("qwen2.rope.scaling.type", "yarn").set("qwen2.rope.scaling.finetuned", true);
  EXPECT_EQ(scaling_of(writer),
            RopeScaling(YarnRopeScaling{
                .factor = 4, .original_context = 512, .magnitude = yarn_magnitude(4)}));
  writer.set("qwen2.rope.scaling.original_context_length", 128u)
      .set("qwen2.rope.scaling.yarn_beta_fast", 16.f);
  EXPECT_EQ(
      scaling_of(writer),
      RopeScaling(YarnRopeScaling{
          .factor = 4, .original_context = 128, .beta_fast = 16, .magnitude = yarn_magnitude(4)}));
  const TempDir dir;
  ASSERT_TRUE(convert_to(dir.path(), writer).ok());
  EXPECT_EQ(load_config(dir / "out")->rope_scaling, scaling_of(writer));
  EXPECT_THAT(error_of(writer.set("qwen2.rope.scaling.attn_factor", 2.f)),
              HasSubstr("qwen2.rope.scaling.attn_factor: only 1 is supported, found 2"));
  writer.erase("qwen2.rope.scaling.attn_factor");
  EXPECT_THAT(error_of(writer.set("qwen2.rope.scaling.original_context_length", 0u)),
              HasSubstr("original_context_length: expected 1..16777216, found 0"));
}

TEST(GgufRopeScaling, TheFactorOfTheCommandLineIsLlama3s) {
  const GgufWriter writer = gguf_of({.model_type = "qwen2"}, "qwen2")
                                .set("qwen2.rope.scaling.type", "linear")
                                .set("qwen2.rope.scaling.factor", 4.f);
  const std::string bytes = writer.file();
  const auto source = gguf_source(std::as_bytes(std::span(bytes)), "x.gguf", {.rope_factor = 8});
  EXPECT_THAT(
      std::string(source.status().message()),
      HasSubstr("llama3 rope scaling only; the source has linear rope scaling with factor 4"));
}

TEST(GgufFamilies, RefuseWhatTheyDoNotHave) {
  EXPECT_THAT(
      error_of(
          gguf_of({.model_type = "qwen2"}, "qwen2").set("qwen2.attention.sliding_window", 100u)),
      HasSubstr("qwen2.attention.sliding_window: only 0 is supported, found 100"));
  EXPECT_THAT(error_of(gguf_of({.model_type = "granite"}, "granite")),
              HasSubstr("granite.embedding_scale: is missing"));
  EXPECT_THAT(error_of(gguf_of({.model_type = "qwen3"}, "qwen3").set("qwen3.logit_scale", 2.f)),
              HasSubstr("qwen3.logit_scale: only its absence is supported"));
  EXPECT_THAT(error_of(gguf_of({.model_type = "qwen2"}, "qwen2").erase_tensor("blk.1.attn_k.bias")),
              HasSubstr("tensor \"blk.1.attn_k.bias\": is missing"));
  EXPECT_THAT(error_of(gguf_of({.model_type = "qwen3"}, "qwen2")),
              HasSubstr("tensor \"blk.0.attn_k_norm.weight\": is not one of the"));
  EXPECT_THAT(error_of(gguf_of({.model_type = "llama", .biases = true}, "llama")
                           .erase_tensor("blk.0.attn_output.bias")),
              HasSubstr("tensor \"blk.0.attn_output.bias\": is missing"));
  // Rows of a block cannot change places.
  GgufWriter quantized = gguf_of({.model_type = "llama", .biases = true}, "llama");
  auto& bias = quantized.find_tensor("blk.0.attn_q.bias");
  bias.type = 8;  // Q8_0: 34 bytes for 32 values
  bias.bytes.resize(34);
  EXPECT_THAT(error_of(quantized), HasSubstr("a bias must be F32, F16 or BF16, found Q8_0"));
}

}  // namespace
}  // namespace kascade::convert
