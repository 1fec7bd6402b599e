// What a calibration asks for, and the job that follows from it.
#ifndef KASCADE_SERVER_CORE_CALIBRATION_REQUEST_H_
#define KASCADE_SERVER_CORE_CALIBRATION_REQUEST_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/calibration/calibration.h"

namespace kascade::core {

// As a front end fills it in.
struct CalibrationRequest {
  CalibrationOptions options{};           // dense_layers in any order, layer 0 and repeats allowed
  std::vector<std::string_view> texts{};  // UTF-8, 1 to 4,096; they belong to the caller
  bool activate = true;                   // activate the schedule if it passes its quality check
};

struct PreparedCalibration {
  std::string id{};  // same model, texts and options: same id
  CalibrationOptions options{};
  std::vector<std::vector<Token>> texts{};
  std::string data_digest{};  // SHA-256 of the texts' tokens, hex
  int64_t tokens = 0;         // of all texts
  bool activate = true;
};

// INVALID_ARGUMENT names the field, its limit and the value.
absl::StatusOr<PreparedCalibration> prepare(const CalibrationRequest& request,
                                            const Engine& engine);

}  // namespace kascade::core

#endif  // KASCADE_SERVER_CORE_CALIBRATION_REQUEST_H_
