// Runs the windows of a calibration through the engine as background requests: they take only what
// interactive requests leave.
#ifndef KASCADE_ENGINE_CALIBRATION_WINDOW_RUNS_H_
#define KASCADE_ENGINE_CALIBRATION_WINDOW_RUNS_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/calibration/crossover.h"
#include "engine/calibration/pass_keys.h"
#include "engine/calibration/run_results.h"
#include "engine/calibration/similarity_recorder.h"
#include "engine/calibration/windows.h"
#include "engine/engine.h"
#include "engine/quality/comparison.h"
#include "engine/quality/doubt.h"
#include "engine/schedule/schedule.h"

namespace kascade {

// The comparison of a sparse run with a dense run of the same windows.
struct WindowComparison {
  ComparisonSums sums{};     // the first run is dense, the second sparse
  AttentionCounts counts{};  // of the sparse run
  DoubtSums doubt{};         // of the dense run
  std::vector<float> kl{};   // of each scored token, in the order of the windows
};

// Called on the engine's thread with the number of tokens processed so far.
using TokensDone = std::function<void(int64_t tokens)>;

// All functions block until all windows are done. Once `stop` turns true they soon return
// CANCELLED, and none of their requests is left in the engine. Windows whose result is in
// `results`, which may be null, do not run; the results of the others are kept there as they come.
class WindowRuns {
 public:
  WindowRuns(Engine& engine, const std::atomic<bool>& stop, RunResults* results = nullptr)
      : engine_(engine), stop_(stop), results_(results) {}

  // Runs the windows with dense attention and returns the similarities of each.
  absl::StatusOr<std::vector<Similarity>> measure(const SelectionSettings& settings,
                                                  SimilarityKind kind, const Texts& windows,
                                                  const TokensDone& done);
  // Runs the windows dense and under `schedule`, in one pass, with per-query selection at every
  // position.
  absl::StatusOr<WindowComparison> compare(const std::shared_ptr<const Schedule>& schedule,
                                           const Texts& windows, const TokensDone& done);
  // Asks the questions and returns, for each, whether it was answered: at every token of the right
  // answer, put behind the question, the model holds this token for the most likely one, so that
  // greedy decoding would write exactly this answer. Keys are selected as in serving: per tile in
  // the prompt, per query in the answer.
  absl::StatusOr<std::vector<bool>> ask(const AttentionChoice& attention,
                                        std::span<const Question> questions,
                                        const TokensDone& done);
  // Feeds a text as serving feeds a prompt, and returns how long its chunks took: the time from the
  // end of the step before, so that the first chunk is left out. Other requests that run meanwhile
  // make them longer.
  absl::StatusOr<std::vector<ChunkTime>> time_chunks(const AttentionChoice& attention,
                                                     std::span<const Token> tokens,
                                                     const TokensDone& done);

 private:
  Engine& engine_;
  const std::atomic<bool>& stop_;
  RunResults* results_;
  int timed_runs_ = 0;  // each run of the same text has a time of its own
};

}  // namespace kascade

#endif  // KASCADE_ENGINE_CALIBRATION_WINDOW_RUNS_H_
