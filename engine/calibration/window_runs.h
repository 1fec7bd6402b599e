// Runs the windows of a calibration through the engine, behind live requests.
#ifndef KASCADE_ENGINE_CALIBRATION_WINDOW_RUNS_H_
#define KASCADE_ENGINE_CALIBRATION_WINDOW_RUNS_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>

#include "absl/status/statusor.h"
#include "engine/calibration/similarity_recorder.h"
#include "engine/calibration/windows.h"
#include "engine/engine.h"
#include "engine/schedule/schedule.h"

namespace kascade {

// Over the scored tokens of dense and sparse runs of the same windows.
struct ComparedSums {
  int64_t tokens = 0, same_top1 = 0;
  double dense = 0, sparse = 0, kl = 0;  // −log p of the two, and KL(dense ‖ sparse), nats
  double difference_squares = 0;         // of sparse − dense, token by token
  AttentionCounts counts{};
};

// Hears how many tokens are done, on the engine's thread.
using TokensDone = std::function<void(int64_t tokens)>;

// Blocking; CANCELLED soon after `stop` turns true, with nothing left behind in the engine.
class WindowRuns {
 public:
  WindowRuns(Engine& engine, const std::atomic<bool>& stop) : engine_(engine), stop_(stop) {}

  // Dense runs, of which the mean similarity of layers is kept.
  absl::StatusOr<Similarity> measure(const SelectionSettings& rule, SimilarityKind kind,
                                     const Texts& windows, const TokensDone& done);
  // Dense and sparse in one pass, every position by the row rule.
  absl::StatusOr<ComparedSums> compare(const std::shared_ptr<const Schedule>& schedule,
                                       const Texts& windows, const TokensDone& done);

 private:
  Engine& engine_;
  const std::atomic<bool>& stop_;
};

}  // namespace kascade

#endif  // KASCADE_ENGINE_CALIBRATION_WINDOW_RUNS_H_
