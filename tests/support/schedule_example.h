// A schedule in which every field is set, for tests of its validation and of its file format.
#ifndef KASCADE_TESTS_SUPPORT_SCHEDULE_EXAMPLE_H_
#define KASCADE_TESTS_SUPPORT_SCHEDULE_EXAMPLE_H_

#include <string>

#include "engine/schedule/schedule.h"

namespace kascade::testing {

inline constexpr ScheduleShape kExampleShape{.layers = 4, .kv_heads = 2};

// Uses values that no short decimal represents exactly.
inline Schedule example() {
  Schedule schedule;
  schedule.model = {"demo \"ä\" \n", "aa11", "bb22", "cc33"};
  schedule.created_at = "2026-01-02T03:04:05Z";
  schedule.calibration = {.planner = "dp",
                          .requested = RequestedSchedule{.anchors = 2,
                                                         .dense_layers = {3, 1},
                                                         .auto_dense_layers = true,
                                                         .min_recall = 0.7000000000000001},
                          .data_digest = "dd44",
                          .held_out_digest = "ee55",
                          .windows = 17,
                          .window_tokens = 2048,
                          .tokens = int64_t{1} << 40,
                          .duration_seconds = 1.0 / 3,
                          .threshold = 0.1,
                          .max_reuse_dist = 4};
  schedule.selection = {
      .ratio = 0.1 + 0.2, .min_keys = 64, .decode_own_tile = false, .sink_keys = 4};
  schedule.layers = {
      {.role = Role::kDense, .anchor = 0, .head_map = {0, 1}, .importance = 2.0 / 7},
      {.role = Role::kAnchor, .anchor = 1, .head_map = {0, 1}, .reason = "best set"},
      {.role = Role::kReuse, .anchor = 1, .head_map = {1, 1}, .similarity = 0.9123456789012345},
      {.role = Role::kReuse, .anchor = 0, .head_map = {1, 0}, .similarity = 5e-324}};
  schedule.quality = {.protocol = "4 texts",
                      .tokens = 2048,
                      .dense_perplexity = 12.345678901234567,
                      .sparse_perplexity = 12.4,
                      .degradation_percent = -0.1,
                      .degradation_error_percent = 0.2,
                      .mean_kl = 1e-9,
                      .same_top1 = 0.97,
                      .keys_attended_ratio = 1.0 / 9,
                      .passed = true};
  seal(schedule);
  return schedule;
}

inline std::string message_of(const absl::Status& status) { return std::string(status.message()); }

}  // namespace kascade::testing

#endif  // KASCADE_TESTS_SUPPORT_SCHEDULE_EXAMPLE_H_
