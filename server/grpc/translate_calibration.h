// Calibrations on the wire ↔ the core.
#ifndef KASCADE_SERVER_GRPC_TRANSLATE_CALIBRATION_H_
#define KASCADE_SERVER_GRPC_TRANSLATE_CALIBRATION_H_

#include <span>

#include "absl/status/statusor.h"
#include "engine/calibration/calibration.h"
#include "kascade/v1/calibration_service.pb.h"
#include "server/core/calibration_jobs.h"
#include "server/grpc/errors.h"

namespace kascade::server {

// Points into `in`. INVALID_ARGUMENT: an unknown value, or an option of the planner or family that
// was not chosen, naming both. Ranges are checked later.
absl::StatusOr<core::CalibrationRequest> read_calibration(const v1::CalibrateRequest& in,
                                                          const ModelConfig& model);
absl::StatusOr<CalibrationOptions> read_calibration_options(const v1::CalibrateRequest& in,
                                                            const ModelConfig& model);
// How a client knows the fields that the engine finds at fault.
std::span<const FieldName> calibration_fields();

void to_proto(const core::CalibrationStarted& started, v1::CalibrationStarted& out);
void to_proto(const core::CalibrationReport& report, v1::CalibrationProgress& out);
void to_proto(const core::CalibrationResult& result, v1::CalibrationResult& out);
void to_proto(const core::CalibrationSnapshot& snapshot, v1::Calibration& out);

}  // namespace kascade::server

#endif  // KASCADE_SERVER_GRPC_TRANSLATE_CALIBRATION_H_
