// The schedule by which sparse steps are measured: a calibrated one from a file, or a synthetic
// one.
#ifndef KASCADE_TESTS_BENCH_MEASURED_SCHEDULE_H_
#define KASCADE_TESTS_BENCH_MEASURED_SCHEDULE_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "engine/model/config.h"
#include "engine/schedule/schedule.h"

namespace kascade::bench {

struct MeasuredSchedule {
  std::shared_ptr<const Schedule> schedule{};  // not null
  std::string file{};                          // where it was read; empty for a synthetic one

  bool is_synthetic() const { return file.empty(); }
};

// The schedule of `file`, with its own layers, head maps and selection settings. With an empty
// `file`: the synthetic schedule of typical_schedule(), which attends to `ratio` of the keys. The
// model that the schedule was calibrated with need not be the measured one, which has random
// weights, but its shape must be. INVALID_ARGUMENT names the layers and KV heads of both if they
// differ, and what else is wrong with a schedule. Schedules that select by mass are refused,
// because random attention has no few keys that hold most of it. A file that cannot be read is an
// error too.
absl::StatusOr<MeasuredSchedule> measured_schedule(const ModelConfig& config,
                                                   const std::string& file, double ratio);

// Says which schedule it is: the file, the digest of its contents, the model and the outcome of its
// quality check; or "synthetic schedule". Then the number of layers of each role.
std::string describe(const MeasuredSchedule& measured);

}  // namespace kascade::bench

#endif  // KASCADE_TESTS_BENCH_MEASURED_SCHEDULE_H_
