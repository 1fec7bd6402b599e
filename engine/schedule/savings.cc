// What a schedule saves, as far as words can tell.

#include <cstdint>
#include <string>

#include "absl/strings/str_cat.h"
#include "engine/schedule/schedule.h"

namespace kascade {
namespace {

// Whether the budget covers all candidates of every query, so that nothing is ever dropped.
bool selects_everything(const SelectionSettings& selection, int32_t context) {
  if (selection.family == Family::kTile) {
    return int64_t{selection.top_k} * selection.query_tile >= context;
  }
  if (selection.min_keys >= context) return true;
  if (selection.mass == 0) return selection.ratio >= 1;
  return selection.mass >= 1 && selection.max_ratio >= 1;
}

}  // namespace

std::string savings_warning(const Schedule& schedule, int32_t context) {
  const bool reuses = schedule.count(Role::kReuse) > 0;
  const bool anchors_drop_keys =
      schedule.selection.family == Family::kKascade && schedule.count(Role::kAnchor) > 0;
  const char* nothing = "the schedule saves nothing: ";
  if (!reuses && !anchors_drop_keys) {
    return absl::StrCat(nothing,
                        "no layer reuses the keys of another, so every layer attends to all keys");
  }
  if (selects_everything(schedule.selection, context)) {
    return absl::StrCat(nothing, "its budget covers all keys of the context of ", context,
                        " tokens");
  }
  if (schedule.quality.tokens > 0 && schedule.quality.keys_attended_ratio >= 1) {
    return absl::StrCat(nothing, "it attended to all keys of the text of its quality check");
  }
  if (!reuses && !schedule.selection.int4_keys) {
    return "the schedule saves little: no layer reuses the keys of another, so every layer reads "
           "all keys to choose among them, and only values are left out";
  }
  return "";
}

}  // namespace kascade
