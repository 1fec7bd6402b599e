// What a calibration asks for, and the job that follows from it.
#ifndef KASCADE_SERVER_CORE_CALIBRATION_REQUEST_H_
#define KASCADE_SERVER_CORE_CALIBRATION_REQUEST_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/calibration/calibration.h"
#include "server/core/request_guard.h"

namespace kascade::core {

// As a front end fills it in.
struct CalibrationRequest {
  CalibrationOptions options{};  // dense_layers in any order, layer 0 and repeats allowed
  // UTF-8; they belong to the caller. 1 to 65,536 texts, and as many held-out ones, or none.
  std::vector<std::string_view> texts{};
  std::vector<std::string_view> held_out_texts{};
  // The kind of each text; empty, or as many as there are texts. 1 to 64 bytes each.
  std::vector<std::string> kinds{};
  std::vector<std::string> held_out_kinds{};
  std::optional<int32_t> max_tokens_per_text{};  // takes the first tokens of each text only
  bool activate = true;  // activate the schedule if it passes its quality check
  bool fresh = false;    // as PreparedCalibration::fresh
};

struct PreparedCalibration {
  std::string id{};  // same model, texts and options: same id
  CalibrationOptions options{};
  CalibrationTexts texts{};
  std::string data_digest{};                 // SHA-256 of the texts' tokens, hex
  int64_t tokens = 0;                        // of all texts
  std::optional<int64_t> held_out_tokens{};  // of the held-out texts, if there are any
  bool activate = true;
  // Whether the job begins anew although the same one has ended here with a schedule, and takes
  // nothing that earlier jobs measured.
  bool fresh = false;
  // Holds the memory of the texts for as long as the job needs them.
  std::shared_ptr<const void> memory{};
};

// Sets the fields that follow from options, texts and model: id, digest and tokens.
void identify(const ModelIdentity& model, PreparedCalibration& job);

// INVALID_ARGUMENT names the field, its limit and the value. The errors of the guard, which then
// holds what the texts take.
absl::StatusOr<PreparedCalibration> prepare(const CalibrationRequest& request, const Engine& engine,
                                            const std::shared_ptr<RequestGuard>& guard);

}  // namespace kascade::core

#endif  // KASCADE_SERVER_CORE_CALIBRATION_REQUEST_H_
