// Turns the names that a calibration request has in the API into the options of `kascade
// calibrate`.
#ifndef KASCADE_CLIENT_COMMANDS_OPTION_NAMES_H_
#define KASCADE_CLIENT_COMMANDS_OPTION_NAMES_H_

#include "absl/status/status.h"

namespace kascade::client {

// The status with the names of fields in its message replaced: "top_k: is an option of family TILE"
// becomes "--top-k: is an option of --select tile".
absl::Status with_option_names(const absl::Status& status);

}  // namespace kascade::client

#endif  // KASCADE_CLIENT_COMMANDS_OPTION_NAMES_H_
