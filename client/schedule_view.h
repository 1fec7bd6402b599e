// A schedule and its gate as text and as JSON.
#ifndef KASCADE_CLIENT_SCHEDULE_VIEW_H_
#define KASCADE_CLIENT_SCHEDULE_VIEW_H_

#include <string>

#include "client/reports.h"
#include "kascade/v1/calibration_service.pb.h"
#include "kascade/v1/schedule.pb.h"

namespace kascade::client {

// Where it comes from, one line per layer, totals.
std::string schedule_text(const v1::Schedule& schedule);
// The quality it was stored with, in one paragraph.
std::string quality_text(const v1::QualityReport& quality);
// One line per candidate that went through the gate, then the verdict.
std::string gate_text(const v1::CalibrationResult& result);

Json quality_json(const v1::QualityReport& quality);
Json gate_json(const v1::CalibrationResult& result);

}  // namespace kascade::client

#endif  // KASCADE_CLIENT_SCHEDULE_VIEW_H_
