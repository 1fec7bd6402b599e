#include "server/core/attention.h"

#include <utility>

namespace kascade::core {
namespace {

absl::StatusOr<AttentionChoice> resolve_schedule(const NamedSchedule& name,
                                                 const Schedules& schedules) {
  ScheduledAttention out{.ratio = name.ratio, .dense_below = name.dense_below};
  if (name.id) {
    auto schedule = schedules.find_fitting(*name.id);
    if (!schedule.ok()) return schedule.status();
    out.schedule = *std::move(schedule);
  } else {
    out.schedule = schedules.active();
  }
  return out;
}

}  // namespace

absl::StatusOr<AttentionChoice> resolve(const std::optional<AttentionSource>& source,
                                        const Schedules& schedules) {
  if (!source) return default_attention(schedules.active());
  if (const auto* name = std::get_if<NamedSchedule>(&*source)) {
    return resolve_schedule(*name, schedules);
  }
  if (const auto* baseline = std::get_if<BaselineAttention>(&*source)) return *baseline;
  return DenseAttention{};
}

}  // namespace kascade::core
