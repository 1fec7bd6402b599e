#include <algorithm>

#include "absl/strings/str_cat.h"
#include "engine/base/refusal.h"
#include "engine/calibration/calibration.h"

namespace kascade {
namespace {

// A new schedule must keep narrower limits than a schedule file.
absl::Status check_selection(const SelectionSettings& selection) {
  const int32_t tile = selection.query_tile;
  if (tile != 16 && tile != 32 && tile != 64 && tile != 128) {
    return invalid_field("selection.query_tile",
                         absl::StrCat("must be 16, 32, 64 or 128, got ", tile));
  }
  for (const absl::Status& status :
       {check_positive("selection.ratio", selection.ratio, 1),
        check_range("selection.min_keys", selection.min_keys, 1, 1 << 20),
        check_range("selection.mass", selection.mass, 0, 1),
        check_positive("selection.max_ratio", selection.max_ratio, 1),
        check_range("selection.top_k", selection.top_k, 1, 1 << 16),
        check_range("selection.sink_keys", selection.sink_keys, 0, 1 << 16),
        check_range("selection.dense_below", selection.dense_below, 0, 0)}) {
    if (!status.ok()) return status;
  }
  return validate(selection);
}

absl::Status check_dense_layers(const CalibrationOptions& options, const ModelConfig& model) {
  for (size_t i = 0; i < options.dense_layers.size(); ++i) {
    absl::Status status = check_range(absl::StrCat("dense_layers[", i, "]"),
                                      options.dense_layers[i], 0, model.layers - 1);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status check_anchors(const CalibrationOptions& options, const ModelConfig& model) {
  if (options.anchors == 0) return absl::OkStatus();  // the calibration searches
  absl::Status status = check_range("anchors", options.anchors, 1, model.layers);
  if (!status.ok()) return status;
  std::vector<int32_t> dense = options.dense_layers;
  std::ranges::sort(dense);
  dense.erase(std::ranges::unique(dense).begin(), dense.end());
  const auto count =
      static_cast<int32_t>(std::ranges::count_if(dense, [](int32_t layer) { return layer != 0; }));
  if (options.anchors <= model.layers - count) return absl::OkStatus();
  return invalid_field("anchors",
                       absl::StrCat("at most ", model.layers - count, " with ", count, " of ",
                                    model.layers, " layers kept dense, got ", options.anchors));
}

}  // namespace

absl::Status validate(const CalibrationOptions& options, const ModelConfig& model) {
  if (options.planner == Planner::kMass && !(options.selection.mass > 0)) {
    return check_positive("selection.mass", options.selection.mass, 1);
  }
  for (const absl::Status& status :
       {check_selection(options.selection), check_dense_layers(options, model),
        check_range("dense_below", options.dense_below.value_or(0), 0, kMaxDenseBelow),
        check_anchors(options, model),
        check_range("greedy.threshold", options.greedy.threshold, 0, 1),
        check_range("greedy.max_reuse_dist", options.greedy.max_reuse_dist, 1, 1024),
        check_range("min_recall", options.min_recall, 0, 1),
        check_range("window_tokens", options.window_tokens, 64, 1 << 20),
        check_range("max_degradation_percent", options.max_degradation_percent, 0, 1000)}) {
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

}  // namespace kascade
