// The quality check of a schedule, also called the quality gate: a panel of rows that compare the
// schedule with dense attention on held-out text, of which each must pass (docs/method.md, "The
// quality check").
#ifndef KASCADE_ENGINE_CALIBRATION_QUALITY_CHECK_H_
#define KASCADE_ENGINE_CALIBRATION_QUALITY_CHECK_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/calibration/pass_keys.h"
#include "engine/calibration/window_runs.h"
#include "engine/calibration/windows.h"
#include "engine/schedule/schedule.h"

namespace kascade {

// One candidate schedule that underwent the quality check.
struct QualityCheckResult {
  int32_t anchors = 0;       // anchor layers and layer 0
  int32_t dense_layers = 0;  // without layer 0
  double predicted_similarity = 0;
  double mass = 0;  // SelectionSettings::mass
  QualityRecord quality{};
};

// What schedules are checked on, and what they must reach.
struct QualityPanel {
  std::vector<KindWindows> kinds{};            // for perplexity; not empty
  std::vector<QuestionsOfLength> questions{};  // for retrieval; empty: it is not checked
  int32_t window_rows = 0;                     // the most rows of a window, for the protocol
  int32_t vocab = 0;
  double max_degradation_percent = 1.0;  // of each kind, its standard error included
};

// Checks one schedule after the other on the same panel. What dense attention answers is asked
// once.
class QualityCheck {
 public:
  QualityCheck(WindowRuns& runs, QualityPanel panel) : runs_(runs), panel_(std::move(panel)) {}

  // Tokens that the next check runs, unless a perplexity ends it early. A compared token counts as
  // three, which is about the time that it takes. The first check that asks for pass keys asks
  // dense attention, too.
  int64_t tokens() const;

  // Compares perplexities, kind by kind. Then, unless they decide against the schedule already,
  // asks for pass keys. `done` gets the number of tokens done in this check. Errors of the engine
  // pass through.
  absl::StatusOr<QualityCheckResult> check(const std::shared_ptr<const Schedule>& schedule,
                                           const TokensDone& done);

 private:
  // Fills all of `quality` but retrieval and the verdict on it.
  absl::Status compare(const std::shared_ptr<const Schedule>& schedule, const TokensDone& done,
                       QualityRecord& quality);
  absl::Status ask(const std::shared_ptr<const Schedule>& schedule, const TokensDone& done,
                   QualityRecord& quality);

  WindowRuns& runs_;
  QualityPanel panel_;
  std::optional<std::vector<std::vector<bool>>> dense_answers_{};  // [lengths][questions]
};

// Whether a calibration keeps the schedule with quality `a` rather than the one with quality `b`: a
// schedule that passed before one that did not; of two that passed, the one that reads fewer bytes
// of KV per token; of two that did not, one that drops keys before one that drops none, then the
// one with the smaller degradation.
bool is_better(const QualityRecord& a, const QualityRecord& b);

}  // namespace kascade

#endif  // KASCADE_ENGINE_CALIBRATION_QUALITY_CHECK_H_
