// CalibrateRequest → the engine's options and token ids, and the identity of the job.
#ifndef KASCADE_SERVER_TRANSLATE_CALIBRATION_H_
#define KASCADE_SERVER_TRANSLATE_CALIBRATION_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/calibration/calibration.h"
#include "kascade/v1/calibration_service.pb.h"

namespace kascade::server {

struct CalibrationPlan {
  std::string id{};  // same model, texts and options: same id
  CalibrationOptions options{};
  std::vector<std::vector<Token>> texts{};
  std::string data_digest{};
  int64_t tokens = 0;
  bool activate = true;
};

// INVALID_ARGUMENT names the field; for an option of the maker or family that was not chosen, both.
absl::StatusOr<CalibrationPlan> plan_calibration(const v1::CalibrateRequest& in,
                                                 const Engine& engine);
absl::StatusOr<CalibrationOptions> read_calibration_options(const v1::CalibrateRequest& in,
                                                            const ModelConfig& model);

}  // namespace kascade::server

#endif  // KASCADE_SERVER_TRANSLATE_CALIBRATION_H_
