#include <algorithm>

#include "absl/strings/str_cat.h"
#include "engine/calibration/calibration.h"

namespace kascade {

absl::Status validate(const CalibrationOptions& options, const ModelConfig& model) {
  if (absl::Status status = validate(options.selection); !status.ok()) return status;
  const auto outside = [](const char* field, double low, double high, double value) {
    return absl::InvalidArgumentError(
        absl::StrCat(field, ": must be in [", low, ", ", high, "], got ", value));
  };
  if (options.anchors < 0 || options.anchors > model.layers) {
    return outside("anchors", 1, model.layers, options.anchors);
  }
  for (const int32_t layer : options.dense_layers) {
    if (layer < 0 || layer >= model.layers) {
      return outside("dense_layers", 0, model.layers - 1, layer);
    }
  }
  const auto dense = static_cast<int32_t>(
      std::ranges::count_if(options.dense_layers, [](int32_t layer) { return layer != 0; }));
  if (options.anchors > model.layers - dense) {
    return absl::InvalidArgumentError(absl::StrCat("anchors: at most ", model.layers - dense,
                                                   " with ", dense, " of ", model.layers,
                                                   " layers kept dense, got ", options.anchors));
  }
  if (!(options.greedy.threshold >= 0 && options.greedy.threshold <= 1)) {
    return outside("threshold", 0, 1, options.greedy.threshold);
  }
  if (options.greedy.max_reuse_dist < 1 || options.greedy.max_reuse_dist > 1024) {
    return outside("max_reuse_dist", 1, 1024, options.greedy.max_reuse_dist);
  }
  if (!(options.min_recall >= 0 && options.min_recall <= 1)) {
    return outside("min_recall", 0, 1, options.min_recall);
  }
  if (options.window_tokens < 64 || options.window_tokens > (1 << 20)) {
    return outside("window_tokens", 64, 1 << 20, options.window_tokens);
  }
  if (!(options.max_degradation_percent >= 0 && options.max_degradation_percent <= 1000)) {
    return outside("max_degradation_percent", 0, 1000, options.max_degradation_percent);
  }
  return absl::OkStatus();
}

}  // namespace kascade
