// Measures the layer costs, which tell a planner how much it loses where a layer reuses keys
// (docs/method.md, "Layer costs").
#ifndef KASCADE_ENGINE_CALIBRATION_LAYER_COSTS_H_
#define KASCADE_ENGINE_CALIBRATION_LAYER_COSTS_H_

#include <cstdint>
#include <functional>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/schedule/schedule.h"

namespace kascade {

// Runs the given layers and returns their mean KL from dense attention [nats per token].
using MeanKlOf = std::function<absl::StatusOr<double>(std::vector<LayerSchedule> layers)>;

struct LayerCostOptions {
  std::vector<int32_t> dense_layers{};  // stay dense throughout; layer 0 need not be among them
  // Whether to measure also what it costs that a layer selects rather than being dense.
  bool measures_selection_loss = false;

  // The most calls of MeanKlOf for a model of `layers` layers.
  int64_t most_runs(int32_t layers) const {
    return int64_t{layers} * (measures_selection_loss ? 2 : 1);
  }
};

// Fills reuse_cost and layer_cost of `similarity` and, if asked for, select_cost. Each cost is the
// change of the KL when one layer is changed in a schedule in which all layers select that are not
// dense. Errors of `mean_kl_of` end the measurement.
absl::Status measure_layer_costs(const LayerCostOptions& options, const MeanKlOf& mean_kl_of,
                                 Similarity& similarity);

}  // namespace kascade

#endif  // KASCADE_ENGINE_CALIBRATION_LAYER_COSTS_H_
