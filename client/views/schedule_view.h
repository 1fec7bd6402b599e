// Formats a schedule and its quality check as text and as JSON.
#ifndef KASCADE_CLIENT_VIEWS_SCHEDULE_VIEW_H_
#define KASCADE_CLIENT_VIEWS_SCHEDULE_VIEW_H_

#include <string>

#include "client/views/reports.h"
#include "kascade/v1/calibration_service.pb.h"
#include "kascade/v1/schedule.pb.h"

namespace kascade::client {

// The origin of the schedule, one line per layer, and totals. With `measured`, the result that the
// schedule comes from, also what was measured of each layer.
std::string schedule_text(const v1::Schedule& schedule,
                          const v1::CalibrationResult* measured = nullptr);
// The quality report that is stored with the schedule, in one paragraph.
std::string quality_text(const v1::QualityReport& quality);
// One line per candidate that was checked, then whether the schedule passed.
std::string quality_check_text(const v1::CalibrationResult& result);

// Whether the schedule did not pass because no layer reuses the keys of another, so that every key
// is attended to.
bool saves_nothing(const v1::QualityReport& quality);

Json quality_json(const v1::QualityReport& quality);
Json quality_check_json(const v1::CalibrationResult& result);

}  // namespace kascade::client

#endif  // KASCADE_CLIENT_VIEWS_SCHEDULE_VIEW_H_
