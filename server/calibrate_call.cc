#include "server/calibrate_call.h"

#include <utility>

#include "server/translate_calibration.h"

namespace kascade::server {

void CalibrateCall::start(const v1::CalibrateRequest& request, absl::Time) {
  auto plan = plan_calibration(request, host().engine);
  if (!plan.ok()) return close(plan.status());
  if (client_gone()) return;
  cancel_on_disconnect_ = request.cancel_on_disconnect();
  if (absl::Status status = jobs_.start(*std::move(plan), self()); !status.ok()) close(status);
  if (client_gone()) leave();
}

void WatchCall::start(const v1::WatchCalibrationRequest& request, absl::Time) {
  if (absl::Status status = jobs_.watch(request.calibration_id(), self()); !status.ok()) {
    close(status);
  }
  if (client_gone()) leave();
}

}  // namespace kascade::server
