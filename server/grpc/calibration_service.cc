#include "server/grpc/calibration_service.h"

#include <memory>
#include <string>
#include <utility>

#include "server/grpc/calibration_call.h"
#include "server/grpc/errors.h"
#include "server/grpc/pages.h"
#include "server/grpc/translate_calibration.h"
#include "server/grpc/translate_schedule.h"
#include "server/grpc/unary_call.h"

namespace kascade::server {
namespace {

// Finishes a CancelCalibration when its job has ended.
class CancelSubscriber final : public core::CalibrationSubscriber {
 public:
  CancelSubscriber(ServerContext& context, core::CalibrationJobs& jobs,
                   grpc::ServerUnaryReactor* reactor, v1::CancelCalibrationResponse* response)
      : record_(context, "CancelCalibration"),
        jobs_(jobs),
        reactor_(reactor),
        response_(response) {}

  void started(const core::CalibrationStarted& started) override { id_ = started.id; }
  void progress(const core::CalibrationReport&) override {}
  void ended(const absl::Status&, const core::CalibrationResult*) override {
    const auto calibration = jobs_.get(id_);
    if (calibration.ok()) to_proto(*calibration, *response_->mutable_calibration());
    finish(calibration.status());
  }
  absl::Status admit(const grpc::ServerContextBase& call) { return record_.admit(call); }
  void finish(const absl::Status& status) { reactor_->Finish(record_.finish(status)); }

 private:
  RpcRecord record_;
  core::CalibrationJobs& jobs_;
  grpc::ServerUnaryReactor* reactor_;
  v1::CancelCalibrationResponse* response_;
  std::string id_;
};

absl::Status get_schedule(const ServerContext& context, const v1::GetScheduleRequest& in,
                          v1::GetScheduleResponse& out) {
  const auto active = context.schedules.active();
  absl::StatusOr<std::shared_ptr<const Schedule>> schedule = active;
  if (in.has_schedule_id()) {
    schedule = context.schedules.find(in.schedule_id());
  } else if (!active) {
    schedule = absl::NotFoundError("no schedule is active");
  }
  if (!schedule.ok()) return schedule.status();
  *out.mutable_schedule() = to_proto(**schedule);
  out.set_schedule_json(to_json(**schedule));
  out.set_active(active && active->schedule_id == (*schedule)->schedule_id);
  return absl::OkStatus();
}

absl::Status list_schedules(const ServerContext& context, const v1::ListSchedulesRequest& in,
                            v1::ListSchedulesResponse& out) {
  if (const auto active = context.engine.active_schedule()) {
    out.set_active_schedule_id(active->schedule_id);
  }
  using SchedulePtr = std::shared_ptr<const Schedule>;
  return fill_page(
      in, context.schedules.list(),
      [](const SchedulePtr& schedule) { return schedule->schedule_id; },
      [&](const SchedulePtr& schedule) {
        *out.add_schedules() = to_proto(*schedule);
        return out.schedules().rbegin()->ByteSizeLong();
      },
      out);
}

absl::StatusOr<std::shared_ptr<const Schedule>> requested_schedule(
    const ServerContext& context, const v1::ActivateScheduleRequest& in) {
  if (in.has_schedule_id()) return context.schedules.find(in.schedule_id());
  if (!in.has_schedule_json()) {
    return invalid_field("source", "either schedule_id or schedule_json must be set");
  }
  auto parsed = parse_schedule(in.schedule_json());
  if (!parsed.ok()) return below_field("schedule_json", parsed.status());
  return std::make_shared<const Schedule>(*std::move(parsed));
}

absl::Status activate_schedule(const ServerContext& context, const v1::ActivateScheduleRequest& in,
                               v1::ActivateScheduleResponse& out, core::RequestGuard& guard) {
  // A parsed document takes some 20 bytes for each number of two; the schedule and the reply
  // follow.
  const auto memory = static_cast<int64_t>(40 * in.schedule_json().size());
  if (absl::Status status = guard.hold_more(memory); !status.ok()) return status;
  const auto schedule = requested_schedule(context, in);
  if (!schedule.ok()) return schedule.status();
  const auto file = context.schedules.activate(*schedule, in.force());
  if (!file.ok()) return file.status();
  *out.mutable_schedule() = to_proto(**schedule);
  out.set_saved_file(*file);
  out.set_warning(savings_warning(**schedule, context.engine.model().context));
  return absl::OkStatus();
}

}  // namespace

grpc::ServerWriteReactor<v1::CalibrateResponse>* CalibrationService::Calibrate(
    grpc::CallbackServerContext* call, const v1::CalibrateRequest* request) {
  return start_stream(std::make_shared<CalibrateCall>(context_, jobs_), context_, *call, *request,
                      Waits::kForDisk);
}

grpc::ServerWriteReactor<v1::WatchCalibrationResponse>* CalibrationService::WatchCalibration(
    grpc::CallbackServerContext* call, const v1::WatchCalibrationRequest* request) {
  return start_stream(std::make_shared<WatchCall>(context_, jobs_), context_, *call, *request);
}

grpc::ServerUnaryReactor* CalibrationService::GetCalibration(
    grpc::CallbackServerContext* call, const v1::GetCalibrationRequest* request,
    v1::GetCalibrationResponse* response) {
  return run_unary(context_, "GetCalibration", call, *request, [this, request, response](auto&) {
    const auto calibration = jobs_.get(request->calibration_id());
    if (calibration.ok()) to_proto(*calibration, *response->mutable_calibration());
    return calibration.status();
  });
}

grpc::ServerUnaryReactor* CalibrationService::ListCalibrations(
    grpc::CallbackServerContext* call, const v1::ListCalibrationsRequest* request,
    v1::ListCalibrationsResponse* response) {
  return run_unary(context_, "ListCalibrations", call, *request, [this, request, response](auto&) {
    return fill_page(
        *request, jobs_.list(), [](const core::CalibrationSnapshot& job) { return job.id; },
        [&](const core::CalibrationSnapshot& job) {
          to_proto(job, *response->add_calibrations());
          return response->calibrations().rbegin()->ByteSizeLong();
        },
        *response);
  });
}

grpc::ServerUnaryReactor* CalibrationService::CancelCalibration(
    grpc::CallbackServerContext* call, const v1::CancelCalibrationRequest* request,
    v1::CancelCalibrationResponse* response) {
  grpc::ServerUnaryReactor* reactor = call->DefaultReactor();
  auto subscriber = std::make_shared<CancelSubscriber>(context_, jobs_, reactor, response);
  absl::Status status = subscriber->admit(*call);
  if (status.ok()) status = jobs_.cancel(request->calibration_id(), subscriber);
  if (!status.ok()) subscriber->finish(status);
  return reactor;
}

grpc::ServerUnaryReactor* CalibrationService::DeleteCalibration(
    grpc::CallbackServerContext* call, const v1::DeleteCalibrationRequest* request,
    v1::DeleteCalibrationResponse* /*response*/) {
  return run_unary(
      context_, "DeleteCalibration", call, *request,
      [this, request](auto&) { return jobs_.remove(request->calibration_id()); }, Waits::kForDisk);
}

grpc::ServerUnaryReactor* CalibrationService::GetSchedule(grpc::CallbackServerContext* call,
                                                          const v1::GetScheduleRequest* request,
                                                          v1::GetScheduleResponse* response) {
  return run_unary(context_, "GetSchedule", call, *request, [this, request, response](auto&) {
    return get_schedule(context_, *request, *response);
  });
}

grpc::ServerUnaryReactor* CalibrationService::ListSchedules(grpc::CallbackServerContext* call,
                                                            const v1::ListSchedulesRequest* request,
                                                            v1::ListSchedulesResponse* response) {
  return run_unary(context_, "ListSchedules", call, *request, [this, request, response](auto&) {
    return list_schedules(context_, *request, *response);
  });
}

grpc::ServerUnaryReactor* CalibrationService::ActivateSchedule(
    grpc::CallbackServerContext* call, const v1::ActivateScheduleRequest* request,
    v1::ActivateScheduleResponse* response) {
  return run_unary(
      context_, "ActivateSchedule", call, *request,
      [this, request, response](core::RequestGuard& guard) {
        return activate_schedule(context_, *request, *response, guard);
      },
      Waits::kForDisk);
}

grpc::ServerUnaryReactor* CalibrationService::DeactivateSchedule(
    grpc::CallbackServerContext* call, const v1::DeactivateScheduleRequest* request,
    v1::DeactivateScheduleResponse* response) {
  return run_unary(
      context_, "DeactivateSchedule", call, *request,
      [this, response](auto&) {
        const auto id = context_.schedules.deactivate();
        if (id.ok()) response->set_schedule_id(*id);
        return id.status();
      },
      Waits::kForDisk);
}

grpc::ServerUnaryReactor* CalibrationService::DeleteSchedule(
    grpc::CallbackServerContext* call, const v1::DeleteScheduleRequest* request,
    v1::DeleteScheduleResponse* /*response*/) {
  return run_unary(
      context_, "DeleteSchedule", call, *request,
      [this, request](auto&) { return context_.schedules.remove(request->schedule_id()); },
      Waits::kForDisk);
}

}  // namespace kascade::server
