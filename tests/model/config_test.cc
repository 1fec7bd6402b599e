// Tests the reading of config.json: which values are accepted, which are refused, and the text of
// the errors.
#include "engine/model/config.h"

#include <sys/stat.h>

#include <cmath>
#include <numbers>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/shared_data.h"
#include "tests/support/tiny_model.h"

namespace kascade {
namespace {

using nlohmann::json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::TempDir;

// The configuration of a 1B Llama 3.2, as published.
json base() {
  return json::parse(R"({
    "architectures": ["LlamaForCausalLM"], "attention_bias": false, "attention_dropout": 0.0,
    "bos_token_id": 128000, "eos_token_id": 128001, "head_dim": 64, "hidden_act": "silu",
    "hidden_size": 2048, "initializer_range": 0.02, "intermediate_size": 8192,
    "max_position_embeddings": 131072, "mlp_bias": false, "model_type": "llama",
    "num_attention_heads": 32, "num_hidden_layers": 16, "num_key_value_heads": 8,
    "pretraining_tp": 1, "rms_norm_eps": 1e-05,
    "rope_scaling": {"factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
                     "original_max_position_embeddings": 8192, "rope_type": "llama3"},
    "rope_theta": 500000.0, "tie_word_embeddings": true, "torch_dtype": "bfloat16",
    "use_cache": true, "vocab_size": 128256})");
}

absl::StatusOr<ModelConfig> parse(const json& config, const std::string& generation = "") {
  return parse_config(config.dump(), generation);
}

json with(const char* key, const json& value) {
  json config = base();
  config[key] = value;
  return config;
}

json without(const char* key) {
  json config = base();
  config.erase(key);
  return config;
}

std::string error_of(const absl::StatusOr<ModelConfig>& result) {
  return result.ok() ? "accepted" : std::string(result.status().message());
}

TEST(Config, ReadsAPublishedOne) {
  const auto config = parse(base());
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->hidden, 2048);
  EXPECT_EQ(config->intermediate, 8192);
  EXPECT_EQ(config->layers, 16);
  EXPECT_EQ(config->heads, 32);
  EXPECT_EQ(config->kv_heads, 8);
  EXPECT_EQ(config->group(), 4);
  EXPECT_EQ(config->head_dim, 64);
  EXPECT_EQ(config->vocab, 128256);
  EXPECT_EQ(config->context, 131072);
  EXPECT_EQ(config->norm_eps, 1e-5);
  EXPECT_EQ(config->rope_theta, 500000);
  ASSERT_TRUE(config->rope_scaling.has_value());
  EXPECT_EQ(*config->rope_scaling, RopeScaling(Llama3RopeScaling{32, 1, 4, 8192}));
  EXPECT_TRUE(config->tied_head);
  EXPECT_EQ(config->bos_token, 128000);
  EXPECT_THAT(config->eos_tokens, ElementsAre(128001));
  EXPECT_EQ(config->parameters(), 1235814400);
}

TEST(Config, ParametersOfTheEightBillion) {
  json config = base();
  config.update({{"hidden_size", 4096},
                 {"intermediate_size", 14336},
                 {"num_hidden_layers", 32},
                 {"head_dim", 128},
                 {"tie_word_embeddings", false}});
  EXPECT_EQ(parse(config)->parameters(), 8030261248);
}

TEST(Config, DefaultsOfAbsentFields) {
  json config = base();
  for (const char* key : {"architectures", "num_key_value_heads", "head_dim", "rope_theta",
                          "rope_scaling", "tie_word_embeddings", "attention_bias", "mlp_bias",
                          "hidden_act", "pretraining_tp", "bos_token_id", "eos_token_id"}) {
    config.erase(key);
  }
  const auto parsed = parse(config);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->kv_heads, 32);
  EXPECT_EQ(parsed->head_dim, 64);
  EXPECT_EQ(parsed->rope_theta, 10000);
  EXPECT_FALSE(parsed->rope_scaling.has_value());
  EXPECT_FALSE(parsed->tied_head);
  EXPECT_FALSE(parsed->bos_token.has_value());
  EXPECT_THAT(parsed->eos_tokens, IsEmpty());
  EXPECT_EQ(parse(with("num_key_value_heads", nullptr))->kv_heads, 32);
  EXPECT_EQ(parse(with("head_dim", nullptr))->head_dim, 64);
  EXPECT_EQ(parse(with("head_dim", 128))->q_dim(), 4096);
}

TEST(Config, NewerSpellingOfRope) {
  json config = without("rope_scaling");
  config.erase("rope_theta");
  config["rope_parameters"] = {{"rope_type", "default"}, {"rope_theta", 250000.0}};
  auto parsed = parse(config);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->rope_theta, 250000);
  EXPECT_FALSE(parsed->rope_scaling.has_value());

  config["rope_parameters"] = base()["rope_scaling"];
  config["rope_parameters"]["rope_theta"] = 500000;
  config["rope_scaling"] = base()["rope_scaling"];
  config["rope_scaling"]["type"] = "llama3";
  parsed = parse(config);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->rope_theta, 500000);
  EXPECT_EQ(factor_of(*parsed->rope_scaling), 32);

  config["rope_scaling"]["factor"] = 8.0;
  EXPECT_THAT(error_of(parse(config)), HasSubstr("rope_parameters"));
  config["rope_scaling"] = nullptr;
  config["rope_theta"] = 10000;
  EXPECT_THAT(error_of(parse(config)), HasSubstr("rope_parameters.rope_theta"));
}

TEST(Config, EndOfSequenceTokens) {
  EXPECT_THAT(parse(with("eos_token_id", {128001, 128008, 128009, 128001}))->eos_tokens,
              ElementsAre(128001, 128008, 128009));
  EXPECT_THAT(parse(with("eos_token_id", nullptr))->eos_tokens, IsEmpty());
  EXPECT_THAT(parse(base(), R"({"eos_token_id": [3, 5]})")->eos_tokens, ElementsAre(3, 5));
  EXPECT_THAT(parse(base(), R"({"eos_token_id": 7})")->eos_tokens, ElementsAre(7));
  for (const char* silent : {"{}", R"({"eos_token_id": null})", R"({"eos_token_id": []})"}) {
    EXPECT_THAT(parse(base(), silent)->eos_tokens, ElementsAre(128001)) << silent;
  }
  EXPECT_THAT(error_of(parse(base(), R"({"eos_token_id": 128256})")),
              HasSubstr("generation_config.json: eos_token_id: expected an integer in 0..128255, "
                        "found 128256"));
  EXPECT_THAT(error_of(parse(base(), "{")), HasSubstr("generation_config.json"));
}

struct Bad {
  const char* key;
  const char* value;  // JSON; null: the key is removed
  const char* names;  // what the message must contain
};

class Refused : public ::testing::TestWithParam<Bad> {};

TEST_P(Refused, NamesFieldAndValue) {
  const Bad& bad = GetParam();
  const auto config = parse(bad.value ? with(bad.key, json::parse(bad.value)) : without(bad.key));
  ASSERT_FALSE(config.ok());
  EXPECT_EQ(error_of(config).find("config.json: "), 0u);
  EXPECT_THAT(error_of(config), HasSubstr(bad.key));
  EXPECT_THAT(error_of(config), HasSubstr(bad.names));
}

const Bad kBad[] = {
    {"model_type", nullptr, "is missing"},
    {"model_type", "\"gemma2\"", "\"qwen2\" or \"qwen3\" is supported, found \"gemma2\""},
    {"model_type", "7", "a string"},
    {"architectures", "[\"MistralForCausalLM\"]", "LlamaForCausalLM"},
    {"architectures", "[]", "LlamaForCausalLM"},
    {"architectures", "\"LlamaForCausalLM\"", "a list"},
    {"hidden_size", nullptr, "is missing"},
    {"hidden_size", "null", "is missing"},
    {"hidden_size", "0", "1..262144, found 0"},
    {"hidden_size", "-2048", "found -2048"},
    {"hidden_size", "2048.0", "an integer"},
    {"hidden_size", "\"2048\"", "found \"2048\""},
    {"hidden_size", "[2048]", "found [2048]"},
    {"hidden_size", "true", "found true"},
    {"hidden_size", "4294969344", "found 4294969344"},
    {"hidden_size", "18446744073709551615", "found 18446744073709551615"},
    {"hidden_size", "99999999999999999999999", "an integer"},
    {"intermediate_size", "1048577", "1..1048576, found 1048577"},
    {"num_hidden_layers", "1025", "1..1024, found 1025"},
    {"num_hidden_layers", "0", "found 0"},
    {"num_attention_heads", "0", "1..4096, found 0"},
    {"num_attention_heads", "5000", "found 5000"},
    {"num_key_value_heads", "0", "1..4096, found 0"},
    {"num_key_value_heads", "5", "a divisor of num_attention_heads, 32, found 5"},
    {"num_key_value_heads", "64", "found 64"},
    {"head_dim", "63", "an even number in 2..1024, found 63"},
    {"head_dim", "0", "found 0"},
    {"head_dim", "2048", "found 2048"},
    {"vocab_size", "16777217", "1..16777216, found 16777217"},
    {"vocab_size", "-1", "found -1"},
    {"max_position_embeddings", "16777217", "found 16777217"},
    {"max_position_embeddings", nullptr, "is missing"},
    {"rms_norm_eps", nullptr, "is missing"},
    {"rms_norm_eps", "0", "found 0"},
    {"rms_norm_eps", "-1e-5", "found -1e-05"},
    {"rms_norm_eps", "\"NaN\"", "found \"NaN\""},
    {"rope_theta", "0.5", "found 0.5"},
    {"rope_theta", "1e300", "found 1e+300"},
    {"rope_theta", "\"500000\"", "a number"},
    {"tie_word_embeddings", "1", "true or false, found 1"},
    {"attention_bias", "1", "true or false, found 1"},
    {"mlp_bias", "true", "only false is supported"},
    {"mlp_bias", "\"no\"", "true or false"},
    {"hidden_act", "\"gelu\"", "only \"silu\" is supported, found \"gelu\""},
    {"pretraining_tp", "0", "found 0"},
    {"pretraining_tp", "2.5", "found 2.5"},
    {"partial_rotary_factor", "0.5", "found 0.5"},
    {"sliding_window", "4096", "only null (no sliding window in the model itself) is supported"},
    {"sliding_window", "4096", "found 4096"},
    {"kv_lora_rank", "512", "(no multi-head latent attention, MLA) is supported, found 512"},
    {"is_causal", "false", "only true (causal attention, not full attention)"},
    {"is_causal", "1", "true or false, found 1"},
    {"attention_chunk_size", "8192", "(no chunked attention in the model itself)"},
    {"sliding_window", "131071", "found 131071"},
    {"sliding_window", "1e300", "found 1e+300"},
    {"quantization_config", R"({"bits": 4})", R"(found {"bits":4})"},
    {"quantization_config", R"({"quant_method": "awq", "bits": 4})",
     "only an unquantised checkpoint (--weights int8 and int4 round it at the start) or a GGUF "
     "file of the model (kascade-convert reads it) is supported, found \"awq\""},
    {"quantization_config", R"({"quant_method": "gptq", "bits": 4, "group_size": 128})",
     "is supported, found \"gptq\""},
    {"bos_token_id", "128256", "0..128255, found 128256"},
    {"bos_token_id", "[1]", "found [1]"},
    {"eos_token_id", "-1", "found -1"},
    {"eos_token_id", "[1, \"2\"]", "found \"2\""},
    {"eos_token_id", "[[1]]", "found [1]"},
    {"eos_token_id", "{}", "found {}"},
    {"rope_scaling", "\"llama3\"", "an object or null"},
    {"rope_scaling", R"({"type": "linear", "factor": 0.5})", "rope_scaling.factor"},
    {"rope_scaling", R"({"type": "linear", "factor": 0.5})", "1..1e+06, found 0.5"},
    {"rope_scaling", R"({"type": "linear"})", "rope_scaling.factor: is missing"},
    {"rope_scaling", R"({"rope_type": "dynamic"})", "found \"dynamic\""},
    {"rope_scaling", R"({"rope_type": "yarn"})", "rope_scaling.factor: is missing"},
    {"rope_scaling", R"({"rope_type": "longrope"})", "found \"longrope\""},
    {"rope_scaling", R"({"rope_type": "longrope"})",
     "only \"default\", \"linear\", \"llama3\" or \"yarn\" is supported"},
    {"rope_scaling", R"({"rope_type": "llama3", "type": "yarn"})", "rope_scaling.type"},
    {"rope_scaling", R"({"factor": 8.0})", "rope_scaling.factor"},
    {"rope_scaling", R"({"type": "dynamic", "factor": 2})", "found \"dynamic\""},
    {"rope_scaling", R"({"type": "yarn", "factor": 4, "beta_fast": 1})",
     "rope_scaling.beta_fast: expected more than beta_slow, 1, found 1"},
    {"rope_scaling", R"({"type": "yarn", "factor": 4, "truncate": 1})", "true or false"},
    {"rope_scaling", R"({"type": "yarn", "factor": 4, "attention_factor": 0})", "found 0"},
    {"rope_scaling", R"({"type": "yarn", "factor": 4, "original_max_position_embeddings": 0})",
     "1..16777216, found 0"},
    {"rope_scaling", R"({"type": "yarn", "factor": 4, "low_freq_factor": 1})",
     "rope_scaling.low_freq_factor: only null in rope type \"yarn\""},
    {"rope_scaling", R"({"type": "default", "section": [1]})", "rope_scaling.section"},
    {"rope_scaling", R"({"rope_type": "llama3"})", "rope_scaling.factor: is missing"},
    {"rope_parameters", R"({"full_attention": {}})", "rope_parameters.full_attention"},
};

INSTANTIATE_TEST_SUITE_P(Config, Refused, ::testing::ValuesIn(kBad));

TEST(Config, RefusesEveryBadFieldOfLlama3Scaling) {
  const std::pair<const char*, const char*> bad[] = {{"factor", "0.5"},
                                                     {"factor", "null"},
                                                     {"factor", "\"8\""},
                                                     {"low_freq_factor", "0"},
                                                     {"low_freq_factor", "4.0"},
                                                     {"high_freq_factor", "1.0"},
                                                     {"high_freq_factor", "-4"},
                                                     {"original_max_position_embeddings", "0"},
                                                     {"original_max_position_embeddings", "8192.5"},
                                                     {"attention_scale", "1.0"}};
  for (const auto& [key, value] : bad) {
    json config = base();
    config["rope_scaling"][key] = json::parse(value);
    const std::string error = error_of(parse(config));
    EXPECT_THAT(error, HasSubstr("rope_scaling.")) << key << value;
    EXPECT_THAT(error, HasSubstr(key)) << value;
  }
}

// Such a checkpoint has another model_type, too, but that would not tell why.
TEST(Config, NamesTheAttentionBeforeTheFamily) {
  json deepseek = with("model_type", "deepseek_v3");
  deepseek["kv_lora_rank"] = 512;
  EXPECT_THAT(error_of(parse(deepseek)), HasSubstr("MLA"));
  json chunked = with("model_type", "llama4_text");
  chunked["attention_chunk_size"] = 8192;
  EXPECT_THAT(error_of(parse(chunked)), HasSubstr("chunked attention"));
  chunked["attention_chunk_size"] = nullptr;
  EXPECT_THAT(error_of(parse(chunked)), HasSubstr("model_type"));
  EXPECT_TRUE(parse(with("is_causal", true)).ok());
  EXPECT_TRUE(parse(with("kv_lora_rank", nullptr)).ok());
}

// What people's files have besides, and what changes no result.
TEST(Config, KeysWithoutEffectAreIgnored) {
  const auto plain = parse(base());
  ASSERT_TRUE(plain.ok());
  const std::pair<const char*, const char*> top[] = {
      {"pretraining_tp", "2"},       {"pretraining_tp", "8"},    {"hidden_act", "\"swish\""},
      {"sliding_window", "131072"},  {"sliding_window", "null"}, {"pad_token_id", "-1"},
      {"attention_dropout", "0.1"},  {"use_cache", "false"},     {"torch_dtype", "\"float64\""},
      {"transformers_version", "4"}, {"unsloth_fixed", "true"},  {"_name_or_path", "\"/x\""},
      {"initializer_range", "1e30"}};
  for (const auto& [key, value] : top) {
    const auto config = parse(with(key, json::parse(value)));
    ASSERT_TRUE(config.ok()) << config.status();
    EXPECT_EQ(config->parameters(), plain->parameters());
    EXPECT_EQ(rope_frequencies(*config), rope_frequencies(*plain));
  }
  json windowed = with("sliding_window", 4096);
  windowed["use_sliding_window"] = false;
  EXPECT_TRUE(parse(windowed).ok());
}

TEST(Config, RopeParametersOfOtherTypesAreIgnored) {
  const auto unscaled = parse(without("rope_scaling"));
  ASSERT_TRUE(unscaled.ok());
  for (const char* rope :
       {R"({"rope_type": "default", "factor": 8.0})", R"({"type": "linear", "factor": 1.0})",
        R"({"type": "dynamic", "factor": 1, "original_max_position_embeddings": 4096})",
        R"({"rope_type": "default", "attention_factor": 2.0, "beta_fast": 32, "mscale": 1})",
        R"({"rope_type": "default", "low_freq_factor": 1, "short_factor": [1, 2]})"}) {
    const auto config = parse(with("rope_scaling", json::parse(rope)));
    ASSERT_TRUE(config.ok()) << config.status();
    EXPECT_EQ(rope_frequencies(*config), rope_frequencies(*unscaled)) << rope;
  }
  json config = base();
  for (const char* key : {"attention_factor", "beta_fast", "beta_slow", "mscale", "finetuned"}) {
    config["rope_scaling"][key] = 3;
  }
  EXPECT_EQ(parse(config)->rope_scaling, parse(base())->rope_scaling);
}

TEST(Config, AnEmptyGenerationConfigIsDamaged) {
  TempDir dir;
  testing::write_file(dir / "config.json", base().dump());
  EXPECT_TRUE(load_config(dir.path()).ok());
  for (const char* text : {"", "{", "[]", "null", "{\"eos_token_id\": \"2\"}",
                           "{\"eos_token_id\": 1e999}", "{\"eos_token_id\": 4294967298}"}) {
    testing::write_file(dir / "generation_config.json", text);
    EXPECT_THAT(error_of(load_config(dir.path())), HasSubstr("generation_config.json")) << text;
  }
}

TEST(Config, TellsUnsupportedFromNonsense) {
  EXPECT_EQ(parse(with("mlp_bias", true)).status().code(), absl::StatusCode::kUnimplemented);
  EXPECT_EQ(parse(with("mlp_bias", 3)).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(parse(with("model_type", "gemma2")).status().code(), absl::StatusCode::kUnimplemented);
}

TEST(Config, HostileText) {
  const std::string text = base().dump();
  for (const char* nan : {"NaN", "Infinity", "-Infinity", "1e999", "01", "\"\xff\""}) {
    std::string changed = text;
    const std::string found = "\"rms_norm_eps\":1e-05";
    changed.replace(changed.find(found), found.size(), std::string("\"rms_norm_eps\":") + nan);
    EXPECT_THAT(error_of(parse_config(changed, "")), HasSubstr("rms_norm_eps")) << nan;
  }
  for (size_t length = 0; length < text.size(); ++length) {
    EXPECT_FALSE(parse_config(text.substr(0, length), "").ok());
  }
  const std::string twice = "{\"vocab_size\": 7, " + text.substr(1);
  EXPECT_THAT(error_of(parse_config(twice, "")), HasSubstr("same key twice, key \"vocab_size\""));
  const std::string deep(1000000, '[');
  EXPECT_THAT(error_of(parse_config("{\"a\":" + deep, "")), HasSubstr("nested deeper than 32"));
  EXPECT_THAT(error_of(parse_config(deep, "")), HasSubstr("nested deeper"));
  std::string wide = "{\"a\":[0";
  for (int i = 0; i < 1100000; ++i) wide += ",0";
  EXPECT_THAT(error_of(parse_config(wide + "]}", "")), HasSubstr("more than 1048576 values"));
  EXPECT_THAT(error_of(parse_config("[1, 2]", "")), HasSubstr("a JSON object, found [1,2]"));
  EXPECT_THAT(error_of(parse_config(text + "x", "")), HasSubstr("not valid JSON"));
  json long_value = with("hidden_act", std::string(100000, 'x'));
  EXPECT_LT(error_of(parse(long_value)).size(), 200u);
}

TEST(Config, Files) {
  TempDir dir;
  EXPECT_EQ(load_config(dir / "absent").status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(load_config(dir.path()).status().code(), absl::StatusCode::kNotFound);
  std::filesystem::create_directory(dir / "my-model");
  testing::write_file(dir / "my-model/config.json", base().dump());
  for (const char* spelling : {"my-model", "my-model/", "my-model/."}) {
    const auto config = load_config(dir / spelling);
    ASSERT_TRUE(config.ok()) << config.status();
    EXPECT_EQ(config->name, "my-model") << spelling;
  }
  EXPECT_EQ(load_config(dir / "my-model/config.json").status().code(), absl::StatusCode::kNotFound);
  std::filesystem::create_directory(dir / "my-model/generation_config.json");
  EXPECT_THAT(error_of(load_config(dir / "my-model")), HasSubstr("not a regular file"));
  std::filesystem::remove(dir / "my-model/config.json");
  ASSERT_EQ(mkfifo((dir / "my-model/config.json").c_str(), 0600), 0);
  EXPECT_THAT(error_of(load_config(dir / "my-model")), HasSubstr("not a regular file"));
  std::filesystem::remove(dir / "my-model/config.json");
  testing::write_file(dir / "my-model/config.json", std::string(2 << 20, ' '));
  EXPECT_THAT(error_of(load_config(dir / "my-model")), HasSubstr("at most 1048576 bytes"));
}

TEST(Config, RealOnes) {
  KASCADE_NEEDS_DATA("tokenizers/smollm2/config.json");
  const auto smollm = load_config(testing::shared_data() / "tokenizers" / "smollm2");
  ASSERT_TRUE(smollm.ok()) << smollm.status();
  EXPECT_EQ(smollm->heads, 9);
  EXPECT_EQ(smollm->kv_heads, 3);
  EXPECT_EQ(smollm->head_dim, 64);
}

// --- rotary frequencies -------------------------------------------------------------------------

// How many pairs keep their frequency, are blended, are divided by the factor.
std::vector<int> bands(ModelConfig config) {
  const auto scaled = rope_frequencies(config);
  const double factor = factor_of(*config.rope_scaling);
  config.rope_scaling.reset();
  const auto plain = rope_frequencies(config);
  std::vector<int> counts(3);
  for (size_t i = 0; i < plain.size(); ++i) {
    const bool divided = std::abs(scaled[i] * factor / plain[i] - 1) < 1e-12;
    ++counts[scaled[i] == plain[i] ? 0 : divided ? 2 : 1];
  }
  return counts;
}

TEST(Rope, PlainFrequencies) {
  ModelConfig config;
  config.head_dim = 8;
  config.rope_theta = 10000;
  const auto frequencies = rope_frequencies(config);
  ASSERT_EQ(frequencies.size(), 4u);
  for (size_t i = 0; i < 4; ++i) EXPECT_NEAR(frequencies[i] * std::pow(10.0, i), 1, 1e-14);
}

TEST(Rope, BandsOfPublishedModels) {
  ModelConfig config;
  config.rope_theta = 500000;
  config.head_dim = 64;
  config.rope_scaling = Llama3RopeScaling{.factor = 32};
  EXPECT_THAT(bands(config), ElementsAre(15, 3, 14));
  config.head_dim = 128;
  config.rope_scaling = Llama3RopeScaling{.factor = 8};
  EXPECT_THAT(bands(config), ElementsAre(29, 6, 29));
}

// Qwen2.5 stretched from 32,768 to 131,072 tokens: the blend goes from pair 23 to pair 40.
TEST(Rope, BandsOfYarn) {
  ModelConfig config;
  config.rope_theta = 1e6;
  config.head_dim = 128;
  YarnRopeScaling yarn{.factor = 4, .original_context = 32768};
  config.rope_scaling = yarn;
  EXPECT_THAT(bands(config), ElementsAre(24, 16, 24));
  yarn.truncate = false;  // from 23.6 to 39.7
  config.rope_scaling = yarn;
  EXPECT_THAT(bands(config), ElementsAre(24, 16, 24));
  yarn.beta_fast = 1.001;  // a blend of less than one pair
  config.rope_scaling = yarn;
  EXPECT_THAT(bands(config), ElementsAre(40, 0, 24));
}

TEST(Rope, Yarn) {
  const auto read = [](const char* rope) {
    json config = without("rope_scaling");
    config["max_position_embeddings"] = 40960;
    config["rope_scaling"] = json::parse(rope);
    const auto parsed = parse(config);
    EXPECT_TRUE(parsed.ok()) << parsed.status();
    return parsed.value_or(ModelConfig());
  };
  const ModelConfig plain =
      read(R"({"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768})");
  // 0.1 · ln 4 + 1
  EXPECT_NEAR(rope_magnitude(plain), 1.138629436, 1e-9);
  EXPECT_EQ(plain.context, 131072);
  EXPECT_EQ(plain.rope_scaling,
            RopeScaling(YarnRopeScaling{
                .factor = 4, .original_context = 32768, .magnitude = yarn_magnitude(4)}));
  const ModelConfig bare = read(R"({"rope_type": "yarn", "factor": 2.0, "attention_factor": 0.5})");
  EXPECT_EQ(rope_magnitude(bare), 0.5);
  EXPECT_EQ(std::get<YarnRopeScaling>(*bare.rope_scaling).original_context, 40960);
  EXPECT_EQ(bare.context, 81920);
  const ModelConfig strong =
      read(R"({"rope_type": "yarn", "factor": 2.0, "mscale": 3.0, "mscale_all_dim": 2.0})");
  EXPECT_NEAR(rope_magnitude(strong), (0.3 * std::log(2) + 1) / (0.2 * std::log(2) + 1), 1e-12);
  EXPECT_EQ(rope_magnitude(read(R"({"rope_type": "yarn", "factor": 1.0})")), 1);
}

TEST(Rope, Linear) {
  const auto plain = parse(without("rope_scaling"));
  const auto scaled = parse(with("rope_scaling", {{"type", "linear"}, {"factor", 2.5}}));
  ASSERT_TRUE(scaled.ok()) << scaled.status();
  const auto before = rope_frequencies(*plain), after = rope_frequencies(*scaled);
  for (size_t i = 0; i < before.size(); ++i) EXPECT_NEAR(after[i] * 2.5 / before[i], 1, 1e-14);
  EXPECT_EQ(rope_magnitude(*scaled), 1);
  EXPECT_EQ(scaled->context, plain->context);
}

// The published rule, in wavelengths.
TEST(Rope, BlendFollowsThePublishedRule) {
  const auto config = parse(base());
  ASSERT_TRUE(config.ok());
  const auto frequencies = rope_frequencies(*config);
  for (int p = 0; p < 32; ++p) {
    const double f = std::pow(500000.0, -2.0 * p / 64);
    const double wavelength = 2 * std::numbers::pi / f;
    double expected = f;
    if (wavelength > 8192) {
      expected = f / 32;
    } else if (wavelength > 8192 / 4.0) {
      const double s = (8192 / wavelength - 1) / 3;
      expected = (1 - s) * f / 32 + s * f;
    }
    EXPECT_NEAR(frequencies[static_cast<size_t>(p)] / expected, 1, 1e-12) << p;
  }
}

}  // namespace
}  // namespace kascade
