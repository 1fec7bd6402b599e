// Which model is measured: the shapes of known ones, and a schedule like those of calibration.
#ifndef KASCADE_TESTS_BENCH_SHAPES_H_
#define KASCADE_TESTS_BENCH_SHAPES_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "engine/model/config.h"
#include "engine/schedule/schedule.h"

namespace kascade::bench {

// "llama-3.2-1b", "llama-3.1-8b", "smollm2-135m", or the path of a config.json. INVALID_ARGUMENT
// names what is known, NOT_FOUND a missing file.
absl::StatusOr<ModelConfig> shape_named(const std::string& name);

// Layer 0 dense, a quarter of the layers anchors at equal distances, the others reuse: of 16 layers
// 1, 4 and 11. Single keys, `ratio` of the candidates.
std::shared_ptr<const Schedule> typical_schedule(const ModelConfig& config, double ratio);

}  // namespace kascade::bench

#endif  // KASCADE_TESTS_BENCH_SHAPES_H_
