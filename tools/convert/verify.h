// Checks that the server would load a model folder, that its weights are those that the conversion
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
  int64_t not_finite = 0;  // number of values that are not finite
};

struct Verification {
  ModelConfig config{};
  std::vector<TensorSummary> tensors{};
  int64_t weight_bytes = 0;
  int64_t not_finite = 0;  // number of values that are not finite, over all tensors
  // number of files compared with their digest; 0 if there is no conversion.json
  int32_t digests_checked = 0;
  int32_t tokenizer_ids = 0;  // 0 when the folder has no tokenizer
};

// Checks `folder`. Returns the errors of check_model_folder, load_config, open_checkpoint and
// open_tokenizer; DATA_LOSS for a file that differs from its recorded digest. Values that are not
// finite are counted and are not an error.
absl::StatusOr<Verification> verify(const std::filesystem::path& folder);

}  // namespace kascade::convert

#endif  // KASCADE_TOOLS_CONVERT_VERIFY_H_
