// Formats what a calibration has measured as text and as JSON.
#ifndef KASCADE_CLIENT_VIEWS_CALIBRATION_VIEW_H_
#define KASCADE_CLIENT_VIEWS_CALIBRATION_VIEW_H_

#include <string>

#include "client/views/reports.h"
#include "kascade/v1/calibration_service.pb.h"

namespace kascade::client {

// The schedule with what was measured of its layers, the similarities, and the quality check.
std::string calibration_text(const v1::CalibrationResult& result);

// Why the dense model is suspect: the server's causes, of which none is an option of a calibration.
std::string suspect_text(const v1::CalibrationResult& result);
// Why no layer reuses the keys of another, and what would change that; empty if some layer does or
// if the model is suspect.
std::string no_reuse_text(const v1::CalibrationResult& result);

// The keys that describe the measurement: layers_measured, most_similar_pair, auto_threshold,
// suspect_causes and warning.
Json measurement_json(const v1::CalibrationResult& result);

// The values of all presets, one line each, as options of `kascade calibrate`.
std::string presets_text();

}  // namespace kascade::client

#endif  // KASCADE_CLIENT_VIEWS_CALIBRATION_VIEW_H_
