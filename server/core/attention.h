// What a request says about attention, and what that stands for: an attention choice of the engine.
#ifndef KASCADE_SERVER_CORE_ATTENTION_H_
#define KASCADE_SERVER_CORE_ATTENTION_H_

#include <cstdint>
#include <optional>
#include <string>
#include <variant>

#include "absl/status/statusor.h"
#include "engine/request.h"
#include "server/core/schedules.h"

namespace kascade::core {

struct NamedSchedule {
  std::optional<std::string> id{};       // unset: the active schedule
  std::optional<double> ratio{};         // in place of the schedule's, (0, 1]
  std::optional<int32_t> dense_below{};  // in place of the schedule's, positions
};
using AttentionSource = std::variant<DenseAttention, NamedSchedule, BaselineAttention>;

struct ComparedSources {
  AttentionSource first{};
  AttentionSource second{};
};

// Fixes what is meant from now on, whatever is activated later. An unset source stands for the
// active schedule, or for dense attention where none is active. NOT_FOUND: no schedule has the id.
// FAILED_PRECONDITION: the schedule of this id does not fit the model. A schedule that is asked for
// while none is active becomes a null schedule, which validate() of the engine refuses.
absl::StatusOr<AttentionChoice> resolve(const std::optional<AttentionSource>& source,
                                        const Schedules& schedules);

}  // namespace kascade::core

#endif  // KASCADE_SERVER_CORE_ATTENTION_H_
