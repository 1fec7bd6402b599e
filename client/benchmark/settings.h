// The settings of a calibration with the defaults of the server filled in, so that a user sees what
// is in force before it runs.
#ifndef KASCADE_CLIENT_BENCHMARK_SETTINGS_H_
#define KASCADE_CLIENT_BENCHMARK_SETTINGS_H_

#include "kascade/v1/calibration_service.pb.h"

namespace kascade::client {

// Returns `request`, without its texts, with preset and defaults as calibration_service.proto
// states them. Settings that do not belong to the family or the maker stay unset.
v1::CalibrateRequest with_defaults(const v1::CalibrateRequest& request);

}  // namespace kascade::client

#endif  // KASCADE_CLIENT_BENCHMARK_SETTINGS_H_
