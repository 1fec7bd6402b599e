// The configuration of a Llama model, read from config.json and generation_config.json.
#ifndef KASCADE_ENGINE_MODEL_CONFIG_H_
#define KASCADE_ENGINE_MODEL_CONFIG_H_

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/backend/tensor.h"

namespace kascade {

// Llama 3's scaling of the low rotary frequencies.
struct Llama3RopeScaling {
  double factor = 8;
  double low_freq_factor = 1;
  double high_freq_factor = 4;
  int32_t original_context = 8192;

  bool operator==(const Llama3RopeScaling&) const = default;
};

struct ModelConfig {
  std::string name{};  // name of the folder, for messages
  int32_t layers = 0;
  int32_t hidden = 0;
  int32_t intermediate = 0;
  int32_t heads = 0;
  int32_t kv_heads = 0;
  int32_t head_dim = 0;
  int32_t vocab = 0;
  int32_t context = 0;  // max_position_embeddings, tokens
  double norm_eps = 1e-5;
  double rope_theta = 10000;
  std::optional<Llama3RopeScaling> rope_scaling{};
  bool tied_head = false;
  std::optional<int32_t> bos_token{};
  std::vector<int32_t> eos_tokens{};  // from generation_config.json, else config.json

  int32_t group() const { return heads / kv_heads; }  // query heads per KV head
  int32_t q_dim() const { return heads * head_dim; }
  int32_t kv_dim() const { return kv_heads * head_dim; }
  int64_t parameters() const;
};

// Reads config.json and, if present, generation_config.json from `directory`. A model that this
// engine does not compute exactly is refused, naming the key and what was expected and found:
// UNIMPLEMENTED for architectures, activations, biases or rope types that are not supported,
// INVALID_ARGUMENT for values that make no sense, NOT_FOUND for a missing file.
absl::StatusOr<ModelConfig> load_config(const std::filesystem::path& directory);
// The same from the content of both files; an empty one stands for a generation_config.json that is
// not there.
absl::StatusOr<ModelConfig> parse_config(std::string_view config_json,
                                         std::string_view generation_config_json);

// The content of generation_config.json, empty if there is none. INVALID_ARGUMENT for an empty
// file.
absl::StatusOr<std::string> read_generation_config(const std::filesystem::path& directory);

// The angular frequency of each rotary pair, [head_dim / 2], with rope scaling applied, in double.
std::vector<double> rope_frequencies(const ModelConfig& config);

}  // namespace kascade

#endif  // KASCADE_ENGINE_MODEL_CONFIG_H_
