// The sizes of a model as a source's header gives them, checked before anything is computed from
// them.
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

// What the source calls them, for errors.
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

// A configuration of these sizes. They lie in the ranges that parse_config (engine/model/config.h)
// allows, so that the converted folder can be loaded, and so that no product of them (at most
// layers · hidden · intermediate · 4 bytes) leaves 63 bits. INVALID_ARGUMENT names `file` and the
// field.
absl::StatusOr<ModelConfig> config_of(const ModelSizes& sizes, const ModelSizeNames& names,
                                      const std::string& file);

// The user's rope factor, if there is one, instead of the source's scaling; 1 means no scaling.
absl::Status apply_rope_factor(const SourceOptions& options, ModelConfig& config);

}  // namespace kascade::convert

#endif  // KASCADE_TOOLS_CONVERT_MODEL_SIZES_H_
