#include "tests/support/tiny_model.h"

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <map>
#include <random>
#include <stdexcept>
#include <system_error>
#include <utility>

#include "engine/model/safetensors.h"

namespace kascade::testing {
namespace {

using nlohmann::json;

template <typename T>
void append(std::string& bytes, T value) {
  bytes.append(reinterpret_cast<const char*>(&value), sizeof(value));
}

void append_as(DType dtype, float value, std::string& bytes) {
  if (dtype == DType::kF32) append(bytes, value);
  if (dtype == DType::kBF16) append(bytes, to_bf16(value));
  if (dtype == DType::kF16) append(bytes, std::bit_cast<uint16_t>(static_cast<_Float16>(value)));
}

// Rounds the values to blocks of Q8_0; there is a multiple of 32 of them.
void append_q8_0(const std::vector<float>& values, std::string& bytes) {
  for (auto block = values.begin(); block != values.end(); block += 32) {
    float largest = 0;
    for (auto value = block; value != block + 32; ++value) {
      largest = std::max(largest, std::abs(*value));
    }
    const auto scale = static_cast<_Float16>(largest / 127);
    append(bytes, std::bit_cast<uint16_t>(scale));
    for (auto value = block; value != block + 32; ++value) {
      const float level = largest > 0 ? *value / static_cast<float>(scale) : 0;
      append(bytes, static_cast<int8_t>(std::clamp(std::round(level), -127.0f, 127.0f)));
    }
  }
}

// Roughly normal with mean 0 and deviation 1. Not std::normal_distribution, whose values differ
// between standard libraries.
class Gauss {
 public:
  Gauss(uint64_t seed, std::string_view name) : engine_(mix(seed, name)) {}
  float next() {
    double sum = -6;
    for (int i = 0; i < 12; ++i) sum += static_cast<double>(engine_() >> 11) * 0x1p-53;
    return static_cast<float>(sum);
  }

 private:
  static uint64_t mix(uint64_t seed, std::string_view name) {
    uint64_t hash = 14695981039346656037u ^ (seed * 0x9e3779b97f4a7c15u);
    for (const char letter : name) {
      hash = (hash ^ static_cast<unsigned char>(letter)) * 1099511628211u;
    }
    return hash;
  }

  std::mt19937_64 engine_;
};

RawTensor make_matrix(const TinyModel& model, const std::string& name, int64_t rows, int64_t cols) {
  const bool sharpens = name.ends_with("q_proj.weight") || name.ends_with("k_proj.weight");
  // Inputs are normalised, so that this keeps outputs near 1; queries and keys of 3 give scores
  // with a deviation of 9.
  const float scale =
      (model.peaked && sharpens ? 3.0f : 1.0f) / std::sqrt(static_cast<float>(cols));
  RawTensor tensor{name, stored_name(model.dtype), {rows, cols}, {}};
  Gauss gauss(model.seed,
              name == "lm_head.weight" && model.tied ? "model.embed_tokens.weight" : name);
  std::vector<float> values(static_cast<size_t>(rows * cols));
  for (float& value : values) value = gauss.next() * scale;
  if (model.dtype == DType::kQ8_0) {
    append_q8_0(values, tensor.bytes);
  } else {
    for (const float value : values) append_as(model.dtype, value, tensor.bytes);
  }
  return tensor;
}

// A norm, or with a mean of 0 a bias.
RawTensor make_vector(const TinyModel& model, const std::string& name, int64_t size, float mean,
                      float deviation) {
  const DType dtype = model.f32_norms || has_blocks(model.dtype) ? DType::kF32 : model.dtype;
  RawTensor tensor{name, stored_name(dtype), {size}, {}};
  Gauss gauss(model.seed, name);
  for (int64_t i = 0; i < size; ++i) {
    append_as(dtype, mean + gauss.next() * deviation, tensor.bytes);
  }
  return tensor;
}

// The rows of several matrices in one.
RawTensor join(const std::string& name, const std::vector<RawTensor>& parts) {
  RawTensor joined{name, parts.front().dtype, {0, parts.front().shape.back()}, {}};
  for (const RawTensor& part : parts) {
    joined.shape.front() += part.shape.front();
    joined.bytes += part.bytes;
  }
  return joined;
}

const char* architecture_of(const std::string& model_type) {
  static const std::map<std::string, const char*> kNames = {
      {"llama", "LlamaForCausalLM"}, {"mistral", "MistralForCausalLM"},
      {"qwen2", "Qwen2ForCausalLM"}, {"qwen3", "Qwen3ForCausalLM"},
      {"phi3", "Phi3ForCausalLM"},   {"granite", "GraniteForCausalLM"}};
  return kNames.at(model_type);
}

void add_family_keys(const TinyModel& model, json& config) {
  if (model.model_type == "mistral" || model.model_type == "phi3") {
    config["sliding_window"] = nullptr;
    if (model.sliding_window > 0) config["sliding_window"] = model.sliding_window;
  }
  if (model.model_type == "granite") {
    config.update({{"embedding_multiplier", 3.0},
                   {"attention_multiplier", 0.125},
                   {"residual_multiplier", 0.25},
                   {"logits_scaling", 2.0}});
  }
}

// The projections of q, k and v, and what this family has with them.
void add_qkv(const TinyModel& model, const std::string& prefix, std::vector<RawTensor>& tensors) {
  const std::pair<const char*, int64_t> projections[] = {
      {"q", int64_t{model.heads} * model.head_dim},
      {"k", int64_t{model.kv_heads} * model.head_dim},
      {"v", int64_t{model.kv_heads} * model.head_dim}};
  std::vector<RawTensor> matrices;
  for (const auto& [letter, rows] : projections) {
    const std::string name = prefix + letter + "_proj.";
    matrices.push_back(make_matrix(model, name + "weight", rows, model.hidden));
    if (model.model_type != "qwen2" && !model.biases) continue;
    tensors.push_back(make_vector(model, name + "bias", rows, 0, 0.5f));
  }
  if (model.model_type == "phi3") matrices = {join(prefix + "qkv_proj.weight", matrices)};
  tensors.insert(tensors.end(), matrices.begin(), matrices.end());
  if (model.model_type != "qwen3") return;
  for (const char* name : {"q_norm.weight", "k_norm.weight"}) {
    tensors.push_back(make_vector(model, prefix + name, model.head_dim, 1, 0.25f));
  }
}

// GPT-2's printable stand-in for a byte, as UTF-8: itself where it is visible in Latin-1, else the
// next free code point from 256.
std::string byte_symbol(int byte) {
  const auto is_visible = [](int b) {
    return (b >= '!' && b <= '~') || (b >= 0xa1 && b <= 0xac) || (b >= 0xae && b <= 0xff);
  };
  int code = byte;
  if (!is_visible(byte)) {
    code = 256;
    for (int before = 0; before < byte; ++before) code += is_visible(before) ? 0 : 1;
  }
  if (code < 0x80) return {static_cast<char>(code)};
  return {static_cast<char>(0xc0 | (code >> 6)), static_cast<char>(0x80 | (code & 0x3f))};
}

// tokenizer.json without its vocabulary and merges.
static_assert(kTinyBos == 256 && kTinyEos == 257, "the ids below");
constexpr char kTokenizerFrame[] = R"({
  "version": "1.0", "truncation": null, "padding": null,
  "added_tokens": [
    {"id": 256, "content": "<|bos|>", "single_word": false, "lstrip": false, "rstrip": false,
     "normalized": false, "special": true},
    {"id": 257, "content": "<|eos|>", "single_word": false, "lstrip": false, "rstrip": false,
     "normalized": false, "special": true}
  ],
  "normalizer": null,
  "pre_tokenizer":
    {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
  "post_processor": {
    "type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": "<|bos|>", "type_id": 0}},
               {"Sequence": {"id": "A", "type_id": 0}}],
    "pair": [{"SpecialToken": {"id": "<|bos|>", "type_id": 0}},
             {"Sequence": {"id": "A", "type_id": 0}},
             {"Sequence": {"id": "B", "type_id": 1}}],
    "special_tokens": {"<|bos|>": {"id": "<|bos|>", "ids": [256], "tokens": ["<|bos|>"]}}
  },
  "decoder":
    {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
  "model": {
    "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
    "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
    "vocab": {}, "merges": []
  }
})";

void write_json(const std::filesystem::path& path, const json& value) {
  write_file(path, value.dump(1) + "\n");
}

void write_shards(const std::vector<RawTensor>& tensors, size_t count,
                  const std::filesystem::path& directory) {
  json index = {{"metadata", {{"total_size", 0}}}, {"weight_map", json::object()}};
  int64_t total = 0;
  for (size_t shard = 0; shard < count; ++shard) {
    char name[64];
    std::snprintf(name, sizeof(name), "model-%05zu-of-%05zu.safetensors", shard + 1, count);
    std::vector<RawTensor> part;
    for (size_t i = shard; i < tensors.size(); i += count) {
      part.push_back(tensors[i]);
      index["weight_map"][tensors[i].name] = name;
      total += static_cast<int64_t>(tensors[i].bytes.size());
    }
    write_file(directory / name, safetensors_bytes(part));
  }
  index["metadata"]["total_size"] = total;
  write_json(directory / "model.safetensors.index.json", index);
}

}  // namespace

json tiny_config(const TinyModel& model) {
  json config = {
      {"architectures", {architecture_of(model.model_type)}},
      {"model_type", model.model_type},
      {"hidden_size", model.hidden},
      {"intermediate_size", model.intermediate},
      {"num_hidden_layers", model.layers},
      {"num_attention_heads", model.heads},
      {"num_key_value_heads", model.kv_heads},
      {"head_dim", model.head_dim},
      {"vocab_size", model.vocab},
      {"max_position_embeddings", model.context},
      {"hidden_act", "silu"},
      {"rms_norm_eps", 1e-5},
      {"rope_theta", model.rope_theta},
      {"rope_scaling", nullptr},
      {"tie_word_embeddings", model.tied},
      {"attention_bias", model.biases},
      {"mlp_bias", false},
      {"bos_token_id", kTinyBos},
      {"eos_token_id", model.eos_tokens},
      {"torch_dtype", model.dtype == DType::kBF16  ? "bfloat16"
                      : model.dtype == DType::kF16 ? "float16"
                                                   : "float32"},
  };
  if (model.rope_scaling) {
    config["rope_scaling"] = {
        {"rope_type", "llama3"},
        {"factor", model.rope_scaling->factor},
        {"low_freq_factor", model.rope_scaling->low_freq_factor},
        {"high_freq_factor", model.rope_scaling->high_freq_factor},
        {"original_max_position_embeddings", model.rope_scaling->original_context}};
  }
  add_family_keys(model, config);
  return config;
}

json tiny_tokenizer() {
  json tokenizer = json::parse(kTokenizerFrame);
  json& vocab = tokenizer["model"]["vocab"];
  json& merges = tokenizer["model"]["merges"];
  for (int byte = 0; byte < 256; ++byte) vocab[byte_symbol(byte)] = byte;
  for (const json& added : tokenizer["added_tokens"]) vocab[added["content"]] = added["id"];
  int32_t next = kTinyEos + 1;
  const std::string space = byte_symbol(' ');
  for (const auto& [left, right] : std::vector<std::pair<std::string, std::string>>{
           {"t", "h"}, {"th", "e"}, {space, "the"}, {"i", "n"}, {"e", "r"}, {"o", "n"}}) {
    vocab[left + right] = next++;
    merges.push_back(left + " " + right);
  }
  return tokenizer;
}

std::vector<RawTensor> tiny_tensors(const TinyModel& model) {
  const int64_t q_dim = int64_t{model.heads} * model.head_dim;
  const int64_t hidden = model.hidden;
  const int64_t ffn = model.intermediate;
  std::vector<RawTensor> tensors;
  const auto matrix = [&](const std::string& name, int64_t rows, int64_t cols) {
    tensors.push_back(make_matrix(model, name + ".weight", rows, cols));
  };
  const auto norm = [&](const std::string& name) {
    tensors.push_back(make_vector(model, name + ".weight", hidden, 1, 0.125f));
  };
  if (!model.tied || model.table != TinyTable::kHead) {
    matrix("model.embed_tokens", model.vocab, hidden);
  }
  if (!model.tied || model.table != TinyTable::kEmbedding) matrix("lm_head", model.vocab, hidden);
  for (int32_t layer = 0; layer < model.layers; ++layer) {
    const std::string prefix = "model.layers." + std::to_string(layer) + ".";
    norm(prefix + "input_layernorm");
    add_qkv(model, prefix + "self_attn.", tensors);
    matrix(prefix + "self_attn.o_proj", hidden, q_dim);
    if (model.biases) {
      tensors.push_back(make_vector(model, prefix + "self_attn.o_proj.bias", hidden, 0, 0.5f));
    }
    norm(prefix + "post_attention_layernorm");
    matrix(prefix + "mlp.gate_proj", ffn, hidden);
    matrix(prefix + "mlp.up_proj", ffn, hidden);
    if (model.model_type == "phi3") {
      const std::vector<RawTensor> last(tensors.end() - 2, tensors.end());
      tensors.resize(tensors.size() - 2);
      tensors.push_back(join(prefix + "mlp.gate_up_proj.weight", last));
    }
    matrix(prefix + "mlp.down_proj", hidden, ffn);
  }
  norm("model.norm");
  return tensors;
}

std::string safetensors_bytes(const std::vector<RawTensor>& tensors) {
  json header = {{"__metadata__", {{"format", "pt"}}}};
  std::string data;
  for (const RawTensor& tensor : tensors) {
    const size_t begin = data.size();
    data += tensor.bytes;
    header[tensor.name] = {
        {"dtype", tensor.dtype}, {"shape", tensor.shape}, {"data_offsets", {begin, data.size()}}};
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');  // as the reference writer aligns the data
  return safetensors_bytes(text, data);
}

std::string safetensors_bytes(std::string_view header, std::string_view data) {
  std::string file;
  append(file, static_cast<uint64_t>(header.size()));
  file += header;
  file += data;
  return file;
}

void write_file(const std::filesystem::path& path, std::string_view content) {
  std::ofstream out(path, std::ios::binary | std::ios::trunc);
  out.exceptions(std::ios::failbit | std::ios::badbit);
  out.write(content.data(), static_cast<std::streamsize>(content.size()));
  out.close();
}

std::filesystem::path write_tiny_model(const TinyModel& model,
                                       const std::filesystem::path& directory) {
  std::filesystem::create_directories(directory);
  write_json(directory / "config.json", tiny_config(model));
  write_json(directory / "generation_config.json",
             {{"bos_token_id", kTinyBos}, {"eos_token_id", model.eos_tokens}});
  write_json(directory / "tokenizer.json", tiny_tokenizer());
  const auto tensors = tiny_tensors(model);
  if (model.shards > 1) {
    write_shards(tensors, static_cast<size_t>(model.shards), directory);
  } else {
    write_file(directory / "model.safetensors", safetensors_bytes(tensors));
  }
  return directory;
}

TempDir::TempDir() {
  std::string name = std::filesystem::temp_directory_path() / "kascade-test-XXXXXX";
  if (!mkdtemp(name.data())) throw std::system_error(errno, std::generic_category(), name);
  path_ = name;
}

TempDir::~TempDir() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

}  // namespace kascade::testing
