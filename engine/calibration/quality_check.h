// The quality check of a schedule, also called the quality gate: the schedule is compared with
// dense attention on held-out windows (docs/method.md, "The calibration procedure").
#ifndef KASCADE_ENGINE_CALIBRATION_QUALITY_CHECK_H_
#define KASCADE_ENGINE_CALIBRATION_QUALITY_CHECK_H_

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "engine/calibration/window_runs.h"
#include "engine/calibration/windows.h"
#include "engine/schedule/schedule.h"

namespace kascade {

// One candidate schedule that underwent the quality check.
struct QualityCheckResult {
  int32_t anchors = 0;       // anchor layers and layer 0
  int32_t dense_layers = 0;  // without layer 0
  double predicted_similarity = 0;
  QualityRecord quality{};
};

// What a schedule is checked on, and what it must reach.
struct QualityCheckOptions {
  const Texts& windows;
  int32_t window_rows = 0;  // the most rows of a window, as the protocol states them
  int32_t vocab = 0;
  double max_degradation_percent = 1.0;
};

// Runs the windows dense and under `schedule`. Errors of the engine pass through.
absl::StatusOr<QualityCheckResult> check_quality(WindowRuns& runs,
                                                 const std::shared_ptr<const Schedule>& schedule,
                                                 const QualityCheckOptions& options,
                                                 const TokensDone& done);

// Whether a calibration keeps the schedule with quality `a` rather than the one with quality `b`: a
// schedule that passed before one that did not, then one that drops keys before one that drops
// none, then the one with the smaller degradation.
bool is_better(const QualityRecord& a, const QualityRecord& b);

}  // namespace kascade

#endif  // KASCADE_ENGINE_CALIBRATION_QUALITY_CHECK_H_
