// Reads the model configuration from a GGUF file.
#ifndef KASCADE_TOOLS_CONVERT_GGUF_CONFIG_H_
#define KASCADE_TOOLS_CONVERT_GGUF_CONFIG_H_

#include <optional>
#include <span>

#include "absl/status/statusor.h"
#include "engine/model/config.h"
#include "tools/convert/gguf_file.h"

namespace kascade::convert {

// Derives the configuration from the metadata, the number of rows of the embedding and the tensor
// rope_freqs.weight. A model that the engine does not compute exactly is refused, and the error
// names the cause: UNIMPLEMENTED for unsupported features, INVALID_ARGUMENT for invalid
// values.
absl::StatusOr<ModelConfig> gguf_config(const GgufFile& file);

// Recovers the parameters of Llama 3's rope scaling. llama.cpp stores only the number by which the
// frequency of each rotary pair is divided (`divisors`, [head_dim / 2]). Returns nullopt if nothing
// is divided. UNIMPLEMENTED unless one factor, with Llama 3's other constants, reproduces all
// divisors within 1e-4. Only head_dim and rope_theta of `config` are used.
absl::StatusOr<std::optional<Llama3RopeScaling>> recover_rope_scaling(
    std::span<const float> divisors, const ModelConfig& config);

}  // namespace kascade::convert

#endif  // KASCADE_TOOLS_CONVERT_GGUF_CONFIG_H_
