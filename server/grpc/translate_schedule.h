// Schedules as wire messages.
#ifndef KASCADE_SERVER_GRPC_TRANSLATE_SCHEDULE_H_
#define KASCADE_SERVER_GRPC_TRANSLATE_SCHEDULE_H_

#include "engine/calibration/calibration.h"
#include "kascade/v1/calibration_service.pb.h"
#include "kascade/v1/schedule.pb.h"

namespace kascade::server {

v1::Schedule to_proto(const Schedule& schedule);
v1::GateCandidate to_proto(const QualityCheckResult& result);

}  // namespace kascade::server

#endif  // KASCADE_SERVER_GRPC_TRANSLATE_SCHEDULE_H_
