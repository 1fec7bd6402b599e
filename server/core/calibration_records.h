// The records of a calibration's file (calibration_file.h), and what they say.
#ifndef KASCADE_SERVER_CORE_CALIBRATION_RECORDS_H_
#define KASCADE_SERVER_CORE_CALIBRATION_RECORDS_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "engine/engine.h"
#include "server/core/calibration_job.h"

namespace kascade::core {

// Of the first record. What is of another format is not read.
inline constexpr char kCalibrationFormat[] = "kascade calibration 1";

// The first record.
struct CalibrationHead {
  std::string format = kCalibrationFormat;
  ModelIdentity model{};
  std::string environment{};  // run_environment()
  CalibrationStarted started{};
  int64_t began_ns = 0;         // since 1970
  std::string active_before{};  // CalibrationJob::active_before
};

// What computes the runs: the program, and how it computes on this machine. Results of another one
// may differ in the last bits, so they do not continue a calibration.
std::string run_environment(const Engine& engine);

std::string to_record(const CalibrationHead& head);
std::string to_record(const PreparedCalibration& prepared);  // without its memory
std::string to_record(const CalibrationEnd& end);

// DATA_LOSS: the bytes are no such record, or one of another format.
absl::StatusOr<CalibrationHead> read_head(const std::string& bytes);
// The id must be `id`, which is a digest of the model and of all that is asked for.
absl::StatusOr<PreparedCalibration> read_request(const std::string& bytes, const std::string& id,
                                                 const ModelIdentity& model);
absl::StatusOr<CalibrationEnd> read_end(const std::string& bytes);

}  // namespace kascade::core

#endif  // KASCADE_SERVER_CORE_CALIBRATION_RECORDS_H_
