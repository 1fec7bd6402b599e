// The kind of schedule that a calibration request asks for, whether it names it or implies it by an
// option that only one kind has.
#ifndef KASCADE_SERVER_GRPC_CALIBRATION_KIND_H_
#define KASCADE_SERVER_GRPC_CALIBRATION_KIND_H_

#include "absl/status/statusor.h"
#include "engine/calibration/calibration.h"
#include "kascade/v1/calibration_service.pb.h"

namespace kascade::server {

// The options that decided it are null where the request names it or nothing decided it.
struct CalibrationKind {
  Family family = Family::kKascade;
  Planner planner = Planner::kDynamicProgramming;
  const char* family_by = nullptr;
  const char* planner_by = nullptr;
};

// INVALID_ARGUMENT: options that do not go together, or of another kind; names both.
absl::StatusOr<CalibrationKind> read_calibration_kind(const v1::CalibrateRequest& in);

}  // namespace kascade::server

#endif  // KASCADE_SERVER_GRPC_CALIBRATION_KIND_H_
