// The calls that longer jobs, such as the quality suite and the benchmark, make to one server, one
// at a time.
#ifndef KASCADE_CLIENT_RPC_SESSION_H_
#define KASCADE_CLIENT_RPC_SESSION_H_

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/rpc/call.h"
#include "kascade/v1/calibration_service.grpc.pb.h"
#include "kascade/v1/inference_service.grpc.pb.h"

namespace kascade::client {

class Session {
 public:
  // `globals` must outlive the session.
  static absl::StatusOr<std::unique_ptr<Session>> open(const Globals& globals);

  const v1::GetModelInfoResponse& info() const { return info_; }
  const Globals& globals() const { return globals_; }
  v1::InferenceService::Stub& inference() { return *inference_; }

  // Of the scores and generations to come; at first the default of each method.
  void set_priority(v1::Priority priority) { priority_ = priority; }

  // Encodes each text without BOS.
  absl::StatusOr<std::vector<std::vector<int32_t>>> encode(const std::vector<std::string>& texts);
  // Runs a calibration and waits for its schedule. A schedule that did not pass its quality check
  // is a valid result.
  absl::StatusOr<v1::CalibrationResult> calibrate(
      const v1::CalibrateRequest& request,
      const std::function<void(const v1::CalibrationProgress&)>& on_progress = {});
  // Activates a schedule whether or not it passed its quality check.
  absl::Status activate(const std::string& schedule_id);
  // Returns the active schedule as JSON, or an empty string if there is none.
  absl::StatusOr<std::string> active_schedule();
  // Activates the schedule that active_schedule() returned, even if the server no longer has it.
  absl::Status restore(const std::string& schedule_json);
  struct Scored {
    v1::ScoreSummary total{};
    std::vector<float> kl{};  // KL of each token in order, if a comparison of one input requests it
  };
  absl::StatusOr<Scored> score(const v1::ScoreRequest& request);
  struct Generated {
    v1::GenerateStarted started{};
    std::string text{};
    v1::GenerateFinished finished{};
  };
  absl::StatusOr<Generated> generate(const v1::GenerateRequest& request);

 private:
  explicit Session(const Globals& globals) : globals_(globals) {}
  const Globals& globals_;
  std::unique_ptr<v1::InferenceService::Stub> inference_{};
  std::unique_ptr<v1::CalibrationService::Stub> calibration_{};
  v1::GetModelInfoResponse info_{};
  v1::Priority priority_ = v1::PRIORITY_UNSPECIFIED;
};

}  // namespace kascade::client

#endif  // KASCADE_CLIENT_RPC_SESSION_H_
