#include "engine/calibration/candidate_schedules.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace kascade {

bool uses_measured_costs(const CalibrationOptions& options) {
  return options.planner == Planner::kDynamicProgramming &&
         options.layer_cost == LayerCost::kMeasured;
}

bool is_automatic(const CalibrationOptions& options) {
  return options.planner == Planner::kDynamicProgramming && options.anchors == 0;
}

bool measures_selection_loss(const CalibrationOptions& options) {
  return is_automatic(options) && uses_measured_costs(options) &&
         options.selection.family == Family::kKascade;
}

SimilarityKind similarity_kind(const CalibrationOptions& options) {
  if (options.planner == Planner::kGreedy) return SimilarityKind::kJaccard;
  return options.published_head_map_slip ? SimilarityKind::kRecalledMassWithSlip
                                         : SimilarityKind::kRecalledMass;
}

std::vector<int32_t> dense_layers(const CalibrationOptions& options, const Similarity& similarity) {
  std::vector<int32_t> dense = options.dense_layers;
  if (!options.auto_dense_layers) return dense;
  for (int32_t layer = 1; layer < similarity.layers(); ++layer) {
    if (similarity.self_recall[layer] < options.min_recall) dense.push_back(layer);
  }
  return dense;
}

std::vector<LayerSchedule> requested_schedule(const CalibrationOptions& options,
                                              const Similarity& similarity, std::string& note) {
  const std::vector<int32_t> dense = dense_layers(options, similarity);
  if (options.planner == Planner::kGreedy)
    return greedy_schedule(similarity, options.greedy, dense);
  std::vector<std::vector<LayerSchedule>> schedules =
      schedules_by_dynamic_programming(similarity, dense);
  const auto most = static_cast<int32_t>(schedules.size());
  if (options.anchors > most) {
    absl::StrAppend(&note, note.empty() ? "" : "; ", "anchors: ", options.anchors,
                    " were asked for, ", most, " is the most: ", similarity.layers() - most, " of ",
                    similarity.layers(),
                    " layers stay dense, as dense_layers names them or as their own budget "
                    "recalls less than ",
                    100 * options.min_recall, " % of their attention");
  }
  return std::move(schedules[std::min(options.anchors, most) - 1]);
}

std::vector<LayerSchedule> every_layer_selecting(const CalibrationOptions& options,
                                                 const Similarity& similarity) {
  return schedules_by_dynamic_programming(similarity, dense_layers(options, similarity)).back();
}

CalibrationRecord calibration_record(const CalibrationOptions& options,
                                     const CalibrationWindows& windows,
                                     const WindowSettings& measuring) {
  CalibrationRecord record;
  record.planner = name_of(options.planner);
  record.requested = RequestedSchedule{options.anchors, options.dense_layers,
                                       options.auto_dense_layers, options.min_recall};
  record.published_head_map_slip = options.published_head_map_slip;
  record.uses_measured_costs = uses_measured_costs(options);
  record.data_digest = windows.measured_digest;
  record.held_out_digest = windows.held_out_digest;
  record.windows = static_cast<int32_t>(windows.measured.size());
  record.window_tokens = measuring.rows();
  record.tokens = count_tokens(windows.measured);
  if (options.planner == Planner::kGreedy) {
    record.threshold = options.greedy.threshold;
    record.max_reuse_dist = options.greedy.max_reuse_dist;
    record.auto_threshold = options.auto_threshold;
  }
  return record;
}

}  // namespace kascade
