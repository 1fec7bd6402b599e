// Tests the model families: their published configurations, what each refuses, the tensors that
// their layers have, and an engine with each of them.
#include <map>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "engine/model/checkpoint.h"
#include "engine/model/families/model_family.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/engine_client.h"
#include "tests/support/tiny_model.h"

namespace kascade::testing {
namespace {

using nlohmann::json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::StartsWith;

// The keys that decide, as published by the models' authors.
const std::map<std::string, json>& published() {
  static const std::map<std::string, json> kConfigs = {{"mistral-7b-v0.1", json::parse(R"({
        "architectures": ["MistralForCausalLM"], "bos_token_id": 1, "eos_token_id": 2,
        "hidden_act": "silu", "hidden_size": 4096, "intermediate_size": 14336,
        "max_position_embeddings": 32768, "model_type": "mistral", "num_attention_heads": 32,
        "num_hidden_layers": 32, "num_key_value_heads": 8, "rms_norm_eps": 1e-05,
        "rope_theta": 10000.0, "sliding_window": 4096, "tie_word_embeddings": false,
        "vocab_size": 32000})")},
                                                       {"qwen2.5-0.5b", json::parse(R"({
        "architectures": ["Qwen2ForCausalLM"], "bos_token_id": 151643, "eos_token_id": 151643,
        "hidden_act": "silu", "hidden_size": 896, "intermediate_size": 4864,
        "max_position_embeddings": 32768, "max_window_layers": 24, "model_type": "qwen2",
        "num_attention_heads": 14, "num_hidden_layers": 24, "num_key_value_heads": 2,
        "rms_norm_eps": 1e-06, "rope_theta": 1000000.0, "sliding_window": 32768,
        "tie_word_embeddings": true, "use_mrope": false, "use_sliding_window": false,
        "vocab_size": 151936})")},
                                                       {"qwen3-0.6b", json::parse(R"({
        "architectures": ["Qwen3ForCausalLM"], "attention_bias": false, "bos_token_id": 151643,
        "eos_token_id": 151645, "head_dim": 128, "hidden_act": "silu", "hidden_size": 1024,
        "intermediate_size": 3072, "max_position_embeddings": 40960, "max_window_layers": 28,
        "model_type": "qwen3", "num_attention_heads": 16, "num_hidden_layers": 28,
        "num_key_value_heads": 8, "rms_norm_eps": 1e-06, "rope_scaling": null,
        "rope_theta": 1000000, "sliding_window": null, "tie_word_embeddings": true,
        "use_sliding_window": false, "vocab_size": 151936})")},
                                                       {"phi-3-mini-4k", json::parse(R"({
        "architectures": ["Phi3ForCausalLM"], "attention_bias": false, "bos_token_id": 1,
        "eos_token_id": 32000, "hidden_act": "silu", "hidden_size": 3072,
        "intermediate_size": 8192, "max_position_embeddings": 4096, "model_type": "phi3",
        "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 32,
        "original_max_position_embeddings": 4096, "rms_norm_eps": 1e-05, "rope_scaling": null,
        "rope_theta": 10000.0, "sliding_window": 2047, "tie_word_embeddings": false,
        "vocab_size": 32064})")},
                                                       {"granite-3.1-2b", json::parse(R"({
        "architectures": ["GraniteForCausalLM"], "attention_bias": false,
        "attention_multiplier": 0.015625, "bos_token_id": 0, "embedding_multiplier": 12.0,
        "eos_token_id": 0, "hidden_act": "silu", "hidden_size": 2048, "intermediate_size": 8192,
        "logits_scaling": 8.0, "max_position_embeddings": 131072, "mlp_bias": false,
        "model_type": "granite", "num_attention_heads": 32, "num_hidden_layers": 40,
        "num_key_value_heads": 8, "residual_multiplier": 0.22, "rms_norm_eps": 1e-05,
        "rope_scaling": null, "rope_theta": 5000000.0, "tie_word_embeddings": true,
        "vocab_size": 49152})")}};
  return kConfigs;
}

absl::StatusOr<ModelConfig> parse(const json& config) { return parse_config(config.dump(), ""); }

ModelConfig config_of(const std::string& name) {
  const auto config = parse(published().at(name));
  EXPECT_TRUE(config.ok()) << config.status();
  return config.value_or(ModelConfig());
}

// The published configuration with one key replaced; null removes it.
std::string error_of(const std::string& name, const std::string& key, const char* value) {
  json config = published().at(name);
  config.erase(key);
  if (value != nullptr) config[key] = json::parse(value);
  const auto parsed = parse(config);
  return parsed.ok() ? "accepted" : std::string(parsed.status().message());
}

TEST(Families, AreListedInOrder) {
  EXPECT_EQ(model_type_list(), R"("granite", "llama", "mistral", "phi3", "qwen2" or "qwen3")");
  for (const ModelFamily& family : model_families()) {
    EXPECT_EQ(find_model_family(family.model_type), &family);
  }
  EXPECT_EQ(find_model_family("mixtral"), nullptr);
}

// The numbers of weights that the authors state.
TEST(Families, HaveTheirPublishedNumbersOfWeights) {
  EXPECT_EQ(config_of("mistral-7b-v0.1").parameters(), 7241732096);
  EXPECT_EQ(config_of("qwen2.5-0.5b").parameters(), 494032768);
  EXPECT_EQ(config_of("qwen3-0.6b").parameters(), 596049920);
  EXPECT_EQ(config_of("phi-3-mini-4k").parameters(), 3821079552);
}

TEST(Families, Mistral) {
  const ModelConfig config = config_of("mistral-7b-v0.1");
  EXPECT_EQ(config.model_type, "mistral");
  EXPECT_EQ(config.sliding_window, 4096);
  EXPECT_EQ(config.unwindowed_context(), 4096);
  EXPECT_FALSE(config.qkv_bias);
  json later = published().at("mistral-7b-v0.1");
  later["sliding_window"] = nullptr;  // v0.3
  EXPECT_FALSE(parse(later)->sliding_window.has_value());
  EXPECT_EQ(parse(later)->unwindowed_context(), 32768);
  later["sliding_window"] = 32768;
  EXPECT_FALSE(parse(later)->sliding_window.has_value());
  later["head_dim"] = 160;
  EXPECT_EQ(parse(later)->q_dim(), 5120);
  for (const auto& [key, value, names] :
       std::vector<std::tuple<const char*, const char*, const char*>>{
           {"sliding_window", nullptr, "sliding_window: is missing"},
           {"sliding_window", "0", "sliding_window: expected an integer in 1..16777216, found 0"},
           {"num_key_value_heads", nullptr, "num_key_value_heads: is missing"},
           {"attention_bias", "true", "attention_bias: only false is supported"},
           {"architectures", R"(["MistralForSequenceClassification"])", "MistralForCausalLM"}}) {
    EXPECT_THAT(error_of("mistral-7b-v0.1", key, value), HasSubstr(names)) << key;
  }
}

TEST(Families, Qwen2) {
  const ModelConfig config = config_of("qwen2.5-0.5b");
  EXPECT_TRUE(config.qkv_bias);
  EXPECT_FALSE(config.attention_out_bias);
  EXPECT_FALSE(config.head_norms);
  EXPECT_TRUE(config.tied_head);
  EXPECT_FALSE(config.sliding_window.has_value());
  // A window that is switched off, or covers the context.
  EXPECT_EQ(error_of("qwen2.5-0.5b", "sliding_window", "4096"), "accepted");
  EXPECT_EQ(error_of("qwen2.5-0.5b", "use_sliding_window", "true"), "accepted");
  json windowed = published().at("qwen2.5-0.5b");
  windowed.update({{"use_sliding_window", true}, {"sliding_window", 4096}});
  EXPECT_THAT(std::string(parse(windowed).status().message()),
              HasSubstr("sliding_window: only null (no sliding window in the model itself)"));
  EXPECT_THAT(error_of("qwen2.5-0.5b", "layer_types", R"(["full_attention", "sliding_attention"])"),
              HasSubstr("layer_types: only \"full_attention\" in all layers is supported, found "
                        "\"sliding_attention\""));
  EXPECT_EQ(error_of("qwen2.5-0.5b", "layer_types", R"(["full_attention"])"), "accepted");
  EXPECT_THAT(error_of("qwen2.5-0.5b", "num_key_value_heads", nullptr), HasSubstr("is missing"));
}

TEST(Families, Qwen3) {
  const ModelConfig config = config_of("qwen3-0.6b");
  EXPECT_TRUE(config.head_norms);
  EXPECT_FALSE(config.qkv_bias);
  EXPECT_EQ(config.head_dim, 128);
  EXPECT_EQ(config.q_dim(), 2048);
  json biased = published().at("qwen3-0.6b");
  biased["attention_bias"] = true;
  EXPECT_TRUE(parse(biased)->qkv_bias);
  EXPECT_TRUE(parse(biased)->attention_out_bias);
  EXPECT_THAT(error_of("qwen3-0.6b", "head_dim", nullptr), HasSubstr("head_dim: is missing"));
  EXPECT_THAT(error_of("qwen3-0.6b", "model_type", R"("qwen3_moe")"),
              HasSubstr(R"(model_type: only "granite", "llama")"));
}

TEST(Families, Granite) {
  const ModelConfig config = config_of("granite-3.1-2b");
  EXPECT_EQ(config.embedding_multiplier, 12);
  EXPECT_EQ(config.attention_multiplier, 0.015625);
  EXPECT_EQ(config.residual_multiplier, 0.22);
  EXPECT_EQ(config.logits_divisor, 8);
  EXPECT_THAT(error_of("granite-3.1-2b", "logits_scaling", "0"),
              HasSubstr("logits_scaling: expected a number in 1e-06..1e+06, found 0"));
  EXPECT_THAT(error_of("granite-3.1-2b", "attention_bias", "true"),
              HasSubstr("attention_bias: only false"));
  EXPECT_THAT(error_of("granite-3.1-2b", "mlp_bias", "true"), HasSubstr("mlp_bias: only false"));
}

TEST(Families, Phi3) {
  const ModelConfig config = config_of("phi-3-mini-4k");
  EXPECT_TRUE(config.fused_projections);
  EXPECT_EQ(config.sliding_window, 2047);
  EXPECT_THAT(error_of("phi-3-mini-4k", "rope_scaling",
                       R"({"type": "longrope", "long_factor": [1], "short_factor": [1]})"),
              HasSubstr("rope_scaling.rope_type: only \"default\""));
  EXPECT_THAT(error_of("phi-3-mini-4k", "partial_rotary_factor", "0.75"),
              HasSubstr("partial_rotary_factor: only 1"));
}

std::vector<float> values(const Tensor& tensor) {
  std::vector<float> result;
  for (int64_t row = 0; row < tensor.rows; ++row) {
    result.insert(result.end(), tensor.f32(row), tensor.f32(row) + tensor.cols);
  }
  return result;
}

absl::StatusOr<Checkpoint> open(const TinyModel& model, const std::filesystem::path& folder) {
  write_tiny_model(model, folder);
  const auto config = load_config(folder);
  return config.ok() ? open_checkpoint(folder, *config) : config.status();
}

TEST(LayerTensors, JoinedProjectionsAreTheSeparateOnes) {
  TempDir dir;
  const auto separate = open({}, dir / "llama");
  const auto joined = open({.model_type = "phi3"}, dir / "phi3");
  ASSERT_TRUE(separate.ok() && joined.ok()) << joined.status();
  for (size_t layer = 0; layer < 2; ++layer) {
    const LayerTensors &a = separate->layers[layer], &b = joined->layers[layer];
    for (const auto field : {&LayerTensors::q, &LayerTensors::k, &LayerTensors::v,
                             &LayerTensors::gate, &LayerTensors::up, &LayerTensors::down}) {
      EXPECT_EQ(values(a.*field), values(b.*field));
    }
  }
}

TEST(LayerTensors, OnlyThoseOfTheFamily) {
  TempDir dir;
  const auto qwen2 = open({.model_type = "qwen2"}, dir / "qwen2");
  ASSERT_TRUE(qwen2.ok()) << qwen2.status();
  EXPECT_EQ(qwen2->layers[1].q_bias.cols, 32);
  EXPECT_EQ(qwen2->layers[1].v_bias.cols, 16);
  EXPECT_EQ(qwen2->layers[1].o_bias.data, nullptr);
  EXPECT_EQ(qwen2->layers[1].q_norm.data, nullptr);
  const auto qwen3 = open({.model_type = "qwen3", .biases = true}, dir / "qwen3");
  ASSERT_TRUE(qwen3.ok()) << qwen3.status();
  EXPECT_EQ(qwen3->layers[0].k_norm.cols, 8);
  EXPECT_EQ(qwen3->layers[0].o_bias.cols, 32);

  // Tensors of one family under the configuration of another.
  json config = tiny_config({});
  write_file(dir / "qwen2" / "config.json", config.dump());
  EXPECT_THAT(
      std::string(open_checkpoint(dir / "qwen2", *load_config(dir / "qwen2")).status().message()),
      HasSubstr("self_attn.k_proj.bias\": expected only the tensors of a model of type "
                "\"llama\" with 2 layers without biases"));
  open({}, dir / "llama").IgnoreError();
  config = tiny_config({.model_type = "qwen2"});
  write_file(dir / "llama" / "config.json", config.dump());
  EXPECT_THAT(
      std::string(open_checkpoint(dir / "llama", *load_config(dir / "llama")).status().message()),
      HasSubstr("model.layers.0.self_attn.q_proj.bias: expected it in the checkpoint"));
}

struct EngineCase {
  TinyModel model;
  const char* weights;
};
void PrintTo(const EngineCase& c, std::ostream* out) {
  *out << c.model.model_type << " " << c.weights;
}

class FamilyEngine : public ::testing::TestWithParam<EngineCase> {
 protected:
  EngineOptions options(const std::string& backend, const std::string& cache = "") const {
    EngineOptions options;
    options.model_directory = dir_ / "model";
    options.backend = backend;
    options.weights = backend == "cpu" ? GetParam().weights : "f32";
    if (!cache.empty()) options.weights_cache = dir_ / cache;
    options.max_sequences = 2;
    return options;
  }
  static std::vector<float> results(Engine& engine) {
    Request request{.tokens = random_tokens(90, 256, 3), .task = Score{.first_scored = 1}};
    std::vector<float> logprobs;
    for (const ScoredToken& token : run(engine, std::move(request)).tokens) {
      logprobs.push_back(token.logprob);
    }
    return logprobs;
  }

  TempDir dir_;
};

// Packed weights hold the matrices alone; biases, norms and multipliers come from the checkpoint.
TEST_P(FamilyEngine, PackedWeightsFromAFileGiveTheSameBits) {
  write_tiny_model(GetParam().model, dir_ / "model");
  const std::vector<float> plain = results(*make_engine(options("cpu")));
  ASSERT_EQ(plain.size(), 89u);
  EXPECT_THAT(make_engine(options("cpu", "cache"))->info().weights_cache, StartsWith("wrote "));
  const auto engine = make_engine(options("cpu", "cache"));
  EXPECT_THAT(engine->info().weights_cache, StartsWith("read "));
  EXPECT_EQ(results(*engine), plain);
}

// Nothing of a family dereferences the memory of a device, and every addition has an effect.
TEST_P(FamilyEngine, ComputesWithBackendMemoryAlone) {
  write_tiny_model(GetParam().model, dir_ / "model");
  const auto reference = results(*make_engine(options("reference")));
  EXPECT_EQ(results(*make_engine(options("far_memory"))), reference);
  TinyModel llama = GetParam().model;
  llama.model_type = "llama";
  llama.biases = false;
  write_tiny_model(llama, dir_ / "model");
  const auto plain = results(*make_engine(options("reference")));
  EXPECT_EQ(plain == reference, GetParam().model.model_type == "phi3");
}

INSTANTIATE_TEST_SUITE_P(
    Families, FamilyEngine,
    ::testing::Values(EngineCase{{.model_type = "qwen2", .hidden = 48}, "int8"},
                      EngineCase{{.model_type = "qwen3", .biases = true, .hidden = 48}, "int4"},
                      EngineCase{{.model_type = "granite", .hidden = 48}, "int8"},
                      EngineCase{{.model_type = "phi3", .hidden = 48}, "int8"},
                      EngineCase{{.model_type = "mistral", .sliding_window = 20, .hidden = 48},
                                 "int8"}));

}  // namespace
}  // namespace kascade::testing
