#include "server/grpc/calibration_kind.h"

#include <initializer_list>

#include "absl/strings/str_cat.h"
#include "engine/base/refusal.h"

namespace kascade::server {
namespace {

using Request = v1::CalibrateRequest;

// An option that belongs to one family or one planner only.
struct OwnOption {
  const char* name;
  bool set;
};

// The first of the options that is set; null if none is.
const char* first_set(std::initializer_list<OwnOption> options) {
  for (const OwnOption& option : options) {
    if (option.set) return option.name;
  }
  return nullptr;
}

// The first option in the request that belongs to each family and planner; null if there is none.
struct OwnOptions {
  const char* keys;     // family KASCADE
  const char* tiles;    // family TILE
  const char* optimal;  // maker DP
  const char* greedy;   // maker GREEDY
};

OwnOptions own_options(const Request& in) {
  return {.keys = first_set({{"ratio", in.has_ratio()},
                             {"min_keys", in.has_min_keys()},
                             {"mass", in.has_mass()},
                             {"max_ratio", in.has_max_ratio()},
                             {"decode_own_tile", in.has_decode_own_tile()},
                             {"sink_keys", in.has_sink_keys()},
                             {"pooling", in.has_pooling()},
                             {"all_heads", in.has_all_heads()}}),
          .tiles = first_set({{"preset", in.preset() != v1::CALIBRATION_PRESET_UNSPECIFIED},
                              {"top_k", in.has_top_k()}}),
          .optimal = first_set({{"anchors", in.has_anchors()},
                                {"plan_weight", in.has_plan_weight()},
                                {"published_head_map_slip", in.has_published_head_map_slip()}}),
          .greedy = first_set({{"preset", in.preset() != v1::CALIBRATION_PRESET_UNSPECIFIED},
                               {"threshold", in.has_threshold()},
                               {"auto_threshold", in.auto_threshold()},
                               {"max_reuse_dist", in.has_max_reuse_dist()}})};
}

absl::Status read_family(const Request& in, const OwnOptions& own, CalibrationKind& kind) {
  switch (in.family()) {
    case v1::SELECTION_FAMILY_UNSPECIFIED: {
      const bool tiles = own.tiles != nullptr || (own.keys == nullptr && own.greedy != nullptr);
      kind.family = tiles ? Family::kTile : Family::kKascade;
      kind.family_by = own.tiles != nullptr ? own.tiles : tiles ? own.greedy : own.keys;
      return absl::OkStatus();
    }
    case v1::SELECTION_FAMILY_KASCADE:
      kind.family = Family::kKascade;
      return absl::OkStatus();
    case v1::SELECTION_FAMILY_TILE:
      kind.family = Family::kTile;
      return absl::OkStatus();
    default:
      return invalid_field("family", absl::StrCat("unknown value ", int{in.family()}));
  }
}

absl::Status read_maker(const Request& in, const OwnOptions& own, CalibrationKind& kind) {
  switch (in.maker()) {
    case v1::SCHEDULE_MAKER_UNSPECIFIED: {
      const bool undecided = own.greedy == nullptr && own.optimal == nullptr;
      const bool greedy = undecided ? kind.family == Family::kTile : own.greedy != nullptr;
      const bool mass = undecided && !greedy && !in.has_ratio();
      kind.planner = greedy ? Planner::kGreedy
                     : mass ? Planner::kMass
                            : Planner::kDynamicProgramming;
      kind.planner_by = greedy ? own.greedy : own.optimal;
      return absl::OkStatus();
    }
    case v1::SCHEDULE_MAKER_DP:
      kind.planner = Planner::kDynamicProgramming;
      return absl::OkStatus();
    case v1::SCHEDULE_MAKER_GREEDY:
      kind.planner = Planner::kGreedy;
      return absl::OkStatus();
    case v1::SCHEDULE_MAKER_MASS:
      kind.planner = Planner::kMass;
      return absl::OkStatus();
    default:
      return invalid_field("maker", absl::StrCat("unknown value ", int{in.maker()}));
  }
}

// Refuses an option, if there is one, of another family or planner than the request's.
absl::Status refuse_other(const char* option, const char* owner, const char* chosen,
                          const char* chosen_by) {
  if (option == nullptr) return absl::OkStatus();
  return invalid_field(
      option,
      absl::StrCat("is an option of ", owner, "; ", chosen,
                   chosen_by != nullptr ? absl::StrCat(", as ", chosen_by, " asks for it") : ""));
}

absl::Status check_mass_maker(const Request& in, const OwnOptions& own,
                              const CalibrationKind& kind) {
  if (kind.family == Family::kTile) {
    return invalid_field("maker", "MASS is for family KASCADE; family is TILE");
  }
  if (in.has_ratio()) {
    return invalid_field("ratio", "does not go together with maker MASS; mass sets the keys");
  }
  return refuse_other(own.optimal, "maker DP", "maker is MASS", nullptr);
}

}  // namespace

absl::StatusOr<CalibrationKind> read_calibration_kind(const Request& in) {
  const OwnOptions own = own_options(in);
  CalibrationKind kind;
  absl::Status status = read_family(in, own, kind);
  if (status.ok()) status = read_maker(in, own, kind);
  if (!status.ok()) return status;
  const bool tiles = kind.family == Family::kTile;
  const bool greedy = kind.planner == Planner::kGreedy;
  status = tiles ? refuse_other(own.keys, "family KASCADE", "family is TILE", kind.family_by)
                 : refuse_other(own.tiles, "family TILE", "family is KASCADE", kind.family_by);
  if (!status.ok()) return status;
  status = greedy ? refuse_other(own.optimal, "maker DP", "maker is GREEDY", kind.planner_by)
                  : refuse_other(own.greedy, "maker GREEDY", "maker is DP", kind.planner_by);
  if (status.ok() && kind.planner == Planner::kMass) status = check_mass_maker(in, own, kind);
  if (!status.ok()) return status;
  if (in.has_min_recall() && !in.auto_dense_layers()) {
    return invalid_field("min_recall",
                         "is an option of auto_dense_layers; auto_dense_layers is false");
  }
  if (in.has_mass() && in.has_ratio()) {
    return invalid_field("mass", "does not go together with ratio; max_ratio limits the keys");
  }
  if (in.has_max_ratio() && !in.has_mass() && kind.planner != Planner::kMass) {
    return invalid_field("max_ratio", "is an option of mass; mass is not given");
  }
  if (in.has_threshold() && in.auto_threshold()) {
    return invalid_field("auto_threshold", "does not go together with threshold");
  }
  return kind;
}

}  // namespace kascade::server
