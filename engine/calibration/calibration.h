// Builds a schedule from text through the engine's own step loop, at background priority: dense
// windows are measured, a planner builds schedules, and candidates undergo a quality check on
// held-out text (docs/method.md).
// Called by the server on a thread of its own; live requests go first.
#ifndef KASCADE_ENGINE_CALIBRATION_CALIBRATION_H_
#define KASCADE_ENGINE_CALIBRATION_CALIBRATION_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/calibration/similarity_recorder.h"
#include "engine/engine.h"
#include "engine/schedule/schedule.h"

namespace kascade {

// What a layer's similarity counts for when a plan is made (Planner::kDynamicProgramming).
enum class LayerCost {
  kImportance,  // as published: 1 − cos of the residual stream before and after its attention
  kLoss,        // what reuse in this layer alone costs, measured: KL, as the square of lost recall
};
enum class Planner { kDynamicProgramming, kGreedy };  // "dp", "greedy"

struct CalibrationOptions {
  SelectionSettings selection{};
  Planner planner = Planner::kDynamicProgramming;
  LayerCost weight = LayerCost::kLoss;
  // dp: selecting layers, layer 0 counted. 0 = auto: those plans are tried that read least,
  // also with more dense layers than asked for (plan_search.h); by importance: the fewest that
  // pass.
  int32_t anchors = 0;
  GreedyOptions greedy{};
  std::vector<int32_t> dense_layers{};  // besides layer 0
  bool auto_dense_layers = false;       // add those whose own budget recalls < min_recall
  double min_recall = 0.6;
  // dp: measures head maps as the published code does, which adds the own-tile mass of the wrong
  // head (SimilarityKind). Only to measure what that costs.
  bool published_head_map_slip = false;
  int32_t window_tokens = 2048;          // clipped to the context
  double max_degradation_percent = 1.0;  // one standard error included
};

enum class CalibrationStage { kMeasuring, kMeasuringCosts, kPlanning, kCheckingQuality, kDone };
constexpr std::string_view name_of(CalibrationStage stage) {
  switch (stage) {
    case CalibrationStage::kMeasuring:
      return "measuring";
    case CalibrationStage::kMeasuringCosts:
      return "weighing";
    case CalibrationStage::kPlanning:
      return "planning";
    case CalibrationStage::kCheckingQuality:
      return "gating";
    case CalibrationStage::kDone:
      return "done";
  }
  return "?";
}

struct CalibrationProgress {
  CalibrationStage stage = CalibrationStage::kMeasuring;
  int64_t done_tokens = 0;   // of this stage
  int64_t total_tokens = 0;  // of this stage; an estimate while gating, never below done_tokens
  int32_t candidate_anchors = 0;  // gating: the count being tried
};

// One candidate that went through the gate.
struct QualityCheckResult {
  int32_t anchors = 0;       // selecting layers, layer 0 counted
  int32_t dense_layers = 0;  // besides layer 0
  double predicted_similarity = 0;
  QualityRecord quality{};
};

struct CalibrationOutcome {
  Schedule schedule{};  // sealed; quality.passed tells whether it may be activated
  std::string note{};   // what went otherwise than asked, for people; empty: nothing
  std::vector<QualityCheckResult> table{};
  // [a][b − a] for layers a ≤ b: how similar b's choice is to a's by the best head map; 1 for a =
  // b.
  std::vector<std::vector<double>> similarity{};
};

// Whether the schedule that measured as `a` is to be kept rather than that of `b`: one that passed,
// else one that drops keys at all, else the one that loses less.
bool is_better(const QualityRecord& a, const QualityRecord& b);

// What a calibration has measured, for the next one: to plan anew on the same text is then quick.
struct Measurement {
  std::string texts{};  // digest of the measured tokens; empty: nothing was measured
  int32_t window_tokens = 0;
  SelectionSettings selection{};
  SimilarityKind kind = SimilarityKind::kRecalledMass;
  std::optional<std::vector<int32_t>>
      measured_with_dense_layers{};  // the dense layers; unset: not weighed
  Similarity similarity{0, 0};

  bool same_as(const Measurement& other) const;  // in all but what was found
};

// Checks options against the model: INVALID_ARGUMENT naming field, limit, value (an option of the
// other planner or family is the caller's to refuse, as only it knows what was set).
absl::Status validate(const CalibrationOptions& options, const ModelConfig& model);

// `texts`: token ids of each text without BOS. The last 20 % of each is held out (≥ 2,048 tokens in
// all). INVALID_ARGUMENT names what is missing. CANCELLED once `stop` is set; the engine's errors
// pass through. `progress` is called on the calling and on the engine's thread, never concurrently.
// `last`, if given, spares what was measured with the same engine before, and keeps what is now.
absl::StatusOr<CalibrationOutcome> calibrate(
    Engine& engine, const CalibrationOptions& options, const std::vector<std::vector<Token>>& texts,
    const std::function<void(const CalibrationProgress&)>& progress, const std::atomic<bool>& stop,
    Measurement* last = nullptr);

}  // namespace kascade

#endif  // KASCADE_ENGINE_CALIBRATION_CALIBRATION_H_
