// A schedule and its gate as text and as JSON.
#ifndef KASCADE_CLIENT_VIEWS_SCHEDULE_VIEW_H_
#define KASCADE_CLIENT_VIEWS_SCHEDULE_VIEW_H_

#include <string>

#include "client/views/reports.h"
#include "kascade/v1/calibration_service.pb.h"
#include "kascade/v1/schedule.pb.h"

namespace kascade::client {

// Where it comes from, one line per layer, totals.
std::string schedule_text(const v1::Schedule& schedule);
// The quality it was stored with, in one paragraph.
std::string quality_text(const v1::QualityReport& quality);
// One line per candidate that went through the gate, then the verdict.
std::string gate_text(const v1::CalibrationResult& result);

// Not passed because every key is attended to: no layer reuses another's choice.
bool saves_nothing(const v1::QualityReport& quality);
inline constexpr char kSavesNothing[] =
    "every layer attends to all keys, so nothing is saved: with the greedy maker a lower "
    "--threshold or a larger --max-reuse-dist lets layers reuse, with dp fewer --anchors";

Json quality_json(const v1::QualityReport& quality);
Json gate_json(const v1::CalibrationResult& result);

}  // namespace kascade::client

#endif  // KASCADE_CLIENT_VIEWS_SCHEDULE_VIEW_H_
