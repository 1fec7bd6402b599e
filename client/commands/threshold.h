// A threshold on similarity as it is typed: a number, or "auto".
#ifndef KASCADE_CLIENT_COMMANDS_THRESHOLD_H_
#define KASCADE_CLIENT_COMMANDS_THRESHOLD_H_

#include <string>

#include "kascade/v1/calibration_service.pb.h"

namespace kascade::client {

// Validator for CLI11: returns an error message, or "" if the value is valid.
std::string check_threshold(const std::string& text);

// Sets what the text says; an empty one sets nothing.
void set_threshold(const std::string& text, v1::CalibrateRequest& request);

}  // namespace kascade::client

#endif  // KASCADE_CLIENT_COMMANDS_THRESHOLD_H_
