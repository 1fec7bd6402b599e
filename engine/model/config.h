// The configuration of a model, read from config.json and generation_config.json.
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
#include "engine/model/rope.h"

namespace kascade {

// The most positions that a configuration may state.
inline constexpr int64_t kMaxContext = 1 << 24;

struct ModelConfig {
  std::string name{};                // name of the folder, for messages
  std::string model_type = "llama";  // the model family, as config.json names it
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
  std::optional<RopeScaling> rope_scaling{};
  bool tied_head = false;

  // What the layers have besides those of a plain Llama.
  bool qkv_bias = false;            // a bias after the projections of queries, keys and values
  bool attention_out_bias = false;  // a bias after the output projection of attention
  bool head_norms = false;          // an RMSNorm of each head of queries and keys before rotation
  bool fused_projections = false;   // the checkpoint has q, k and v as one matrix, gate and up too
  // A row attends to at most this many keys, the last ones, its own included; set only if the
  // context is longer.
  std::optional<int32_t> sliding_window{};
  double embedding_multiplier = 1;               // of the token embeddings
  std::optional<double> attention_multiplier{};  // of q·k; unset: 1 / √head_dim
  double residual_multiplier = 1;                // of what each block adds to the residual stream
  double logits_divisor = 1;                     // of the logits

  std::optional<int32_t> bos_token{};
  std::vector<int32_t> eos_tokens{};  // from generation_config.json, else config.json

  int32_t group() const { return heads / kv_heads; }  // query heads per KV head
  int32_t q_dim() const { return heads * head_dim; }
  int32_t kv_dim() const { return kv_heads * head_dim; }
  // The longest text, in tokens, in which every row attends to all keys before it.
  int32_t unwindowed_context() const { return sliding_window.value_or(context); }
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

}  // namespace kascade

#endif  // KASCADE_ENGINE_MODEL_CONFIG_H_
