#include "server/grpc/calibration_call.h"

#include <utility>

namespace kascade::server {

void CalibrateCall::start(const v1::CalibrateRequest& request, absl::Time deadline) {
  guard_->set_deadline(deadline);
  auto read = read_calibration(request, context().engine.model());
  if (!read.ok()) return close(read.status());
  if (!request.has_int4_keys() && context().engine.info().int4_key_bytes_per_token == 0) {
    read->options.selection.int4_keys = false;
  }
  auto prepared = core::prepare(*read, context().engine, guard_);
  if (!prepared.ok()) return close(with_wire_field(prepared.status(), calibration_fields()));
  if (client_gone()) return;
  cancel_on_disconnect_ = request.cancel_on_disconnect();
  if (absl::Status status = jobs_.start(*std::move(prepared), self()); !status.ok()) close(status);
  if (client_gone()) leave();
}

void WatchCall::start(const v1::WatchCalibrationRequest& request, absl::Time) {
  if (absl::Status status = jobs_.watch(request.calibration_id(), self()); !status.ok()) {
    close(status);
  }
  if (client_gone()) leave();
}

}  // namespace kascade::server
