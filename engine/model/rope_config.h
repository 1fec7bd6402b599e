// Reads the rotary embedding from config.json.
#ifndef KASCADE_ENGINE_MODEL_ROPE_CONFIG_H_
#define KASCADE_ENGINE_MODEL_ROPE_CONFIG_H_

#include "engine/model/config.h"
#include "engine/model/config_fields.h"

namespace kascade {

// Sets rope_theta and rope_scaling of `config`; its context must be read before, and YaRN may
// enlarge it. Rope types other than default, linear, llama3 and yarn are refused (UNIMPLEMENTED).
void read_rope(const ConfigFields& fields, ModelConfig& config);

}  // namespace kascade

#endif  // KASCADE_ENGINE_MODEL_ROPE_CONFIG_H_
