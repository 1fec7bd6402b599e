// The sizes of a model as the header of a source states them. They are checked before anything is
// computed from them.
#ifndef KASCADE_TOOLS_CONVERT_MODEL_SIZES_H_
#define KASCADE_TOOLS_CONVERT_MODEL_SIZES_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/model/config.h"
#include "tools/convert/source.h"

namespace kascade::convert {

struct ModelSizes {
  int64_t layers = 0;
  int64_t hidden = 0;
  int64_t intermediate = 0;
  int64_t heads = 0;
  int64_t kv_heads = 0;
  int64_t head_dim = 0;
  int64_t vocab = 0;
  int64_t context = 0;
};

// The names of the sizes in the source, for error messages.
struct ModelSizeNames {
  std::string layers{};
  std::string hidden{};
  std::string intermediate{};
  std::string heads{};
  std::string kv_heads{};
  std::string head_dim{};
  std::string vocab{};
  std::string context{};
};

// Returns a configuration with these sizes. INVALID_ARGUMENT, naming `file` and the field, if a
// size is outside the range that parse_config (engine/model/config.h) allows. Within these ranges
// the converted folder can be loaded, and no product of sizes (at most layers · hidden ·
// intermediate · 4 bytes) exceeds 63 bits.
absl::StatusOr<ModelConfig> config_of(const ModelSizes& sizes, const ModelSizeNames& names,
                                      const std::string& file);

// Replaces the rope scaling of the source by the user's rope factor if there is one; a factor of 1
// means no scaling. INVALID_ARGUMENT if the source has a scaling other than llama3.
absl::Status apply_rope_factor(const SourceOptions& options, ModelConfig& config);

}  // namespace kascade::convert

#endif  // KASCADE_TOOLS_CONVERT_MODEL_SIZES_H_
