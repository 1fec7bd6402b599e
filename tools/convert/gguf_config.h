// What a GGUF file of a Llama says about the model.
#ifndef KASCADE_TOOLS_CONVERT_GGUF_CONFIG_H_
#define KASCADE_TOOLS_CONVERT_GGUF_CONFIG_H_

#include <optional>
#include <span>

#include "absl/status/statusor.h"
#include "engine/model/config.h"
#include "tools/convert/gguf_file.h"

namespace kascade::convert {

// From the metadata, the embedding's rows and rope_freqs.weight. Whatever is not exactly a Llama
// that the engine computes is refused by name: UNIMPLEMENTED for what we do not do,
// INVALID_ARGUMENT for what makes no sense.
absl::StatusOr<ModelConfig> gguf_config(const GgufFile& file);

// Llama 3's scaling, of which llama.cpp keeps only by what each rotary pair's frequency is divided
// (`divisors`, [head_dim / 2]). None if nothing is divided; UNIMPLEMENTED unless some factor
// explains all of them within 1e-4 (with Llama 3's other constants). Of `config`, only head_dim and
// rope_theta are used.
absl::StatusOr<std::optional<Llama3RopeScaling>> recover_rope_scaling(
    std::span<const float> divisors, const ModelConfig& config);

}  // namespace kascade::convert

#endif  // KASCADE_TOOLS_CONVERT_GGUF_CONFIG_H_
