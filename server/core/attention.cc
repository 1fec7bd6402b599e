#include "server/core/attention.h"

#include <utility>

namespace kascade::core {
namespace {

absl::StatusOr<AttentionChoice> resolve_schedule(const NamedSchedule& name,
                                                 const Schedules& schedules) {
  if (!name.id) return ScheduledAttention{.schedule = schedules.active(), .ratio = name.ratio};
  auto schedule = schedules.find_fitting(*name.id);
  if (!schedule.ok()) return schedule.status();
  return ScheduledAttention{.schedule = *std::move(schedule), .ratio = name.ratio};
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
