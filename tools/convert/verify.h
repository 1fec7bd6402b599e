// Checks a model folder: that the server would load it, that its weights are what the conversion
// wrote, and that every value is finite.
#ifndef KASCADE_TOOLS_CONVERT_VERIFY_H_
#define KASCADE_TOOLS_CONVERT_VERIFY_H_

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/model/config.h"

namespace kascade::convert {

struct TensorSummary {
  std::string name{};
  std::string dtype{};
  std::vector<int64_t> shape{};
  float min = 0;
  float max = 0;
  double rms = 0;
  int64_t not_finite = 0;  // values
};

struct Verification {
  ModelConfig config{};
  std::vector<TensorSummary> tensors{};
  int64_t weight_bytes = 0;
  int64_t not_finite = 0;       // values, in all tensors
  int32_t digests_checked = 0;  // files; 0 when there is no conversion.json
  int32_t tokenizer_ids = 0;    // 0 when the folder has no tokenizer
};

// Errors: what load_config, open_checkpoint and open_tokenizer say of the folder; DATA_LOSS for a
// file that differs from its recorded digest; INVALID_ARGUMENT for a tokenizer with more ids than
// the model has. Values that are not finite are counted, not an error.
absl::StatusOr<Verification> verify(const std::filesystem::path& folder);

}  // namespace kascade::convert

#endif  // KASCADE_TOOLS_CONVERT_VERIFY_H_
