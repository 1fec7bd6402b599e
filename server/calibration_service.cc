#include "server/calibration_service.h"

#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/calibrate_call.h"
#include "server/errors.h"
#include "server/translate_schedule.h"
#include "server/unary_call.h"

namespace kascade::server {
namespace {

// Finishes a CancelCalibration when its job has ended.
class CancelFollower final : public CalibrationSubscriber {
 public:
  CancelFollower(ServerContext& host, CalibrationJobs& jobs, grpc::ServerUnaryReactor* reactor,
                 v1::CancelCalibrationResponse* response)
      : record_(host, "CancelCalibration"), jobs_(jobs), reactor_(reactor), response_(response) {}

  void started(const v1::CalibrationStarted& started) override { id_ = started.calibration_id(); }
  void progress(const v1::CalibrationProgress&) override {}
  void ended(const absl::Status&, const v1::CalibrationResult&) override {
    auto calibration = jobs_.get(id_);
    if (calibration.ok()) *response_->mutable_calibration() = *std::move(calibration);
    finish(calibration.status());
  }
  void finish(const absl::Status& status) { reactor_->Finish(record_.finish(status)); }

 private:
  RpcRecord record_;
  CalibrationJobs& jobs_;
  grpc::ServerUnaryReactor* reactor_;
  v1::CancelCalibrationResponse* response_;
  std::string id_;
};

absl::Status unknown_schedule(const std::string& id) {
  return with_reason(absl::NotFoundError(absl::StrCat("no schedule has the id \"", id, "\"")),
                     reason::kNotFound, {{"schedule_id", id}});
}

absl::Status get_schedule(const ServerContext& host, const v1::GetScheduleRequest& in,
                          v1::GetScheduleResponse& out) {
  const auto active = host.engine.active_schedule();
  const auto schedule = in.has_schedule_id() ? host.schedules.find(in.schedule_id()) : active;
  if (!schedule && in.has_schedule_id()) return unknown_schedule(in.schedule_id());
  if (!schedule) return absl::NotFoundError("no schedule is active");
  *out.mutable_schedule() = to_proto(*schedule);
  out.set_schedule_json(to_json(*schedule));
  out.set_active(active && active->schedule_id == schedule->schedule_id);
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<const Schedule>> requested_schedule(
    const ServerContext& host, const v1::ActivateScheduleRequest& in) {
  if (in.has_schedule_id()) {
    auto schedule = host.schedules.find(in.schedule_id());
    if (!schedule) return unknown_schedule(in.schedule_id());
    return schedule;
  }
  if (!in.has_schedule_json()) {
    return invalid_field("source", "either schedule_id or schedule_json must be set");
  }
  auto parsed = parse_schedule(in.schedule_json());
  if (!parsed.ok()) return with_field_prefix(parsed.status(), "schedule_json");
  return std::make_shared<const Schedule>(*std::move(parsed));
}

absl::Status activate_schedule(const ServerContext& host, const v1::ActivateScheduleRequest& in,
                               v1::ActivateScheduleResponse& out) {
  const auto schedule = requested_schedule(host, in);
  if (!schedule.ok()) return schedule.status();
  absl::Status status = host.schedules.activate(*schedule, in.force());
  if (!status.ok()) return status;
  const auto file = host.schedules.add(*schedule);
  if (!file.ok()) {
    return absl::InternalError(
        absl::StrCat("the schedule is active but not saved: ", file.status().message()));
  }
  *out.mutable_schedule() = to_proto(**schedule);
  out.set_saved_file(*file);
  return absl::OkStatus();
}

}  // namespace

grpc::ServerWriteReactor<v1::CalibrateResponse>* CalibrationService::Calibrate(
    grpc::CallbackServerContext* context, const v1::CalibrateRequest* request) {
  return start_stream(std::make_shared<CalibrateCall>(host_, jobs_), host_, *context, *request);
}

grpc::ServerWriteReactor<v1::WatchCalibrationResponse>* CalibrationService::WatchCalibration(
    grpc::CallbackServerContext* context, const v1::WatchCalibrationRequest* request) {
  return start_stream(std::make_shared<WatchCall>(host_, jobs_), host_, *context, *request);
}

grpc::ServerUnaryReactor* CalibrationService::GetCalibration(
    grpc::CallbackServerContext* context, const v1::GetCalibrationRequest* request,
    v1::GetCalibrationResponse* response) {
  return run_unary(host_, "GetCalibration", context, 0, [this, request, response] {
    auto calibration = jobs_.get(request->calibration_id());
    if (calibration.ok()) *response->mutable_calibration() = *std::move(calibration);
    return calibration.status();
  });
}

grpc::ServerUnaryReactor* CalibrationService::ListCalibrations(
    grpc::CallbackServerContext* context, const v1::ListCalibrationsRequest*,
    v1::ListCalibrationsResponse* response) {
  return run_unary(host_, "ListCalibrations", context, 0, [this, response] {
    for (v1::Calibration& calibration : jobs_.list()) {
      *response->add_calibrations() = std::move(calibration);
    }
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* CalibrationService::CancelCalibration(
    grpc::CallbackServerContext* context, const v1::CancelCalibrationRequest* request,
    v1::CancelCalibrationResponse* response) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  auto subscriber = std::make_shared<CancelFollower>(host_, jobs_, reactor, response);
  absl::Status status = jobs_.cancel(request->calibration_id(), subscriber);
  if (!status.ok()) subscriber->finish(status);
  return reactor;
}

grpc::ServerUnaryReactor* CalibrationService::GetSchedule(grpc::CallbackServerContext* context,
                                                          const v1::GetScheduleRequest* request,
                                                          v1::GetScheduleResponse* response) {
  return run_unary(host_, "GetSchedule", context, 0,
                   [this, request, response] { return get_schedule(host_, *request, *response); });
}

grpc::ServerUnaryReactor* CalibrationService::ListSchedules(grpc::CallbackServerContext* context,
                                                            const v1::ListSchedulesRequest*,
                                                            v1::ListSchedulesResponse* response) {
  return run_unary(host_, "ListSchedules", context, 0, [this, response] {
    for (const auto& schedule : host_.schedules.list()) {
      *response->add_schedules() = to_proto(*schedule);
    }
    if (const auto active = host_.engine.active_schedule()) {
      response->set_active_schedule_id(active->schedule_id);
    }
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* CalibrationService::ActivateSchedule(
    grpc::CallbackServerContext* context, const v1::ActivateScheduleRequest* request,
    v1::ActivateScheduleResponse* response) {
  return run_unary(
      host_, "ActivateSchedule", context, request->ByteSizeLong(),
      [this, request, response] { return activate_schedule(host_, *request, *response); });
}

grpc::ServerUnaryReactor* CalibrationService::DeactivateSchedule(
    grpc::CallbackServerContext* context, const v1::DeactivateScheduleRequest*,
    v1::DeactivateScheduleResponse* response) {
  return run_unary(host_, "DeactivateSchedule", context, 0, [this, response] {
    response->set_schedule_id(host_.schedules.deactivate());
    return absl::OkStatus();
  });
}

}  // namespace kascade::server
