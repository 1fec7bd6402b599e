// Calibration builds a schedule from text (docs/method.md, "The calibration procedure"). It runs
// windows of the text through the engine with dense attention and measures them, lets a planner
// build schedules, and puts these candidates through a quality check on held-out text. All its
// requests have background priority, so interactive requests go first. The server calls it on a
// thread of its own.
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
#include "engine/calibration/measured_layers.h"
#include "engine/calibration/quality_check.h"
#include "engine/calibration/run_results.h"
#include "engine/calibration/similarity_recorder.h"
#include "engine/calibration/texts.h"
#include "engine/engine.h"
#include "engine/schedule/schedule.h"

namespace kascade {

// The figure of a layer by which the dynamic programming weights what is lost in that layer.
enum class LayerCost {
  kImportance,  // as published: 1 − cos of the residual stream before and after its attention
  kMeasured,    // the KL that reuse in this layer alone costs, per square of the recall it loses
};
// In files and on the wire: "dp", "greedy", "mass". With kMass every layer selects for itself, by a
// share of the attention.
enum class Planner { kDynamicProgramming, kGreedy, kMass };
constexpr std::string_view name_of(Planner planner) {
  return planner == Planner::kDynamicProgramming ? "dp"
         : planner == Planner::kGreedy           ? "greedy"
                                                 : "mass";
}

constexpr double kUsualMass = 0.95;  // tried first in a search
// The usual settings of such a calibration. With four sinks the keys that take most of the
// attention in many layers need not be chosen.
constexpr SelectionSettings kUsualMassSelection{
    .min_keys = 64, .mass = kUsualMass, .sink_keys = 4, .int4_keys = true};

struct CalibrationOptions {
  SelectionSettings selection{};
  Planner planner = Planner::kDynamicProgramming;
  LayerCost layer_cost = LayerCost::kMeasured;
  // Dynamic programming: the number of anchor layers, layer 0 counted. 0 searches for the schedule
  // that reads least of those that pass the quality check (schedule_search.h). With
  // LayerCost::kMeasured the search also tries more dense layers than were asked for.
  int32_t anchors = 0;
  GreedyOptions greedy{};
  // Planner::kMass: searches for the least share that passes the quality check (mass_search.h).
  // Unset, or with another planner, it is that of `selection`.
  bool searches_mass = false;
  std::vector<int32_t> dense_layers{};  // besides layer 0
  bool auto_dense_layers = false;  // also keep layers dense whose own budget recalls too little
  double min_recall = 0.6;         // what auto_dense_layers demands
  // Greedy: takes the threshold of auto_threshold() (measured_layers.h), not that of `greedy`.
  bool auto_threshold = false;
  // Dynamic programming: measures head maps as the published code does, which adds the mass of the
  // wrong head's own tile (SimilarityKind). Serves only to measure what this mistake costs.
  bool published_head_map_slip = false;
  int32_t window_tokens = 2048;  // of a measured window; limited to the context
  bool long_window = true;       // whether one long window is measured, too
  // Whether windows of the quality check are longer than window_tokens where the texts allow it
  // (longest_check_window(), windows.h).
  bool checks_long_windows = false;
  std::optional<bool> join_texts{};      // unset: only if they are too short one by one
  double max_degradation_percent = 1.0;  // of degradation and its standard error together
  bool retrieval = true;                 // whether the quality check asks for pass keys, too
  // SelectionSettings::dense_below of the schedule. It is not in force in the quality check, which
  // would otherwise see less of the sparse attention. Unset: measured once a schedule has passed
  // (crossover.h).
  std::optional<int32_t> dense_below = 0;
};

// The stages come in this order; those that measure are left out where there is nothing to measure.
enum class CalibrationStage {
  kMeasuring,
  kMeasuringCosts,
  kBuildingSchedules,
  kCheckingQuality,
  kMeasuringTimes,
  kDone
};

struct CalibrationProgress {
  CalibrationStage stage = CalibrationStage::kMeasuring;
  int64_t done_tokens = 0;        // of this stage
  int64_t total_tokens = 0;       // an estimate in kCheckingQuality, never below done_tokens
  int32_t candidate_anchors = 0;  // kCheckingQuality: the number of anchors of the candidate
};

struct CalibrationOutcome {
  Schedule schedule{};  // sealed; quality.passed says whether it may be activated
  std::string note{};   // for people: what differs from the request; empty if nothing does
  std::vector<QualityCheckResult>
      table{};  // all candidates, in the order in which they were checked
  // [a][b − a] for layers a ≤ b: the similarity of b's selection to a's under the best head map. It
  // is 1 for a = b.
  std::vector<std::vector<double>> similarity{};
  std::vector<MeasuredLayer> layers{};  // of the schedule
  // Greedy: unset where no layer has another one in reach.
  std::optional<SimilarPair> most_similar_pair{};
  std::optional<AutoThreshold> auto_threshold{};  // only if it was asked for; unset likewise
};

// What a calibration has measured. A later calibration of the same engine on the same texts takes
// it from here, and is then quick.
struct Measurement {
  std::string texts{};  // digest of the measured tokens; empty if nothing was measured
  int32_t window_tokens = 0;
  bool long_window = true;
  SelectionSettings selection{};
  SimilarityKind kind = SimilarityKind::kRecalledMass;
  // The layers that were dense when the layer costs were measured; unset if they were not measured.
  std::optional<std::vector<int32_t>> measured_with_dense_layers{};
  std::vector<Similarity> windows{};  // similarities and recall of each window
  Similarity similarity{0, 0};        // their means, and the layer costs

  // Whether both were measured on the same texts and in the same way. The layer costs and the
  // similarities themselves are not compared.
  bool same_as(const Measurement& other) const;
};

// Checks options against the model. INVALID_ARGUMENT names the field, the limit and the value.
// Options that belong to the other planner or family are not refused here, because only the caller
// knows which options were set.
absl::Status validate(const CalibrationOptions& options, const ModelConfig& model);

// At least 1,024 tokens must be held out. INVALID_ARGUMENT says what is missing; CANCELLED is
// returned once `stop` is set; errors of the engine pass through. `progress` is called on the
// calling thread and on the engine's thread, never at the same time. If `previous` is given, what
// it holds is not measured again, and it holds afterwards what this calibration has measured. If
// `results` are given, what they hold of this calibration does not run again, and the outcome is
// that of the first time, where the engine promises that the results of a request do not depend on
// the others (docs/decisions/0029-results-do-not-depend-on-company.md). They belong to one model on
// one machine.
absl::StatusOr<CalibrationOutcome> calibrate(
    Engine& engine, const CalibrationOptions& options, const CalibrationTexts& texts,
    const std::function<void(const CalibrationProgress&)>& progress, const std::atomic<bool>& stop,
    Measurement* previous = nullptr, RunResults* results = nullptr);

}  // namespace kascade

#endif  // KASCADE_ENGINE_CALIBRATION_CALIBRATION_H_
