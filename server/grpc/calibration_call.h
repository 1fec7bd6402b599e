// A stream that follows a calibration: Calibrate and WatchCalibration differ in the response's type
// and in how the job is found.
#ifndef KASCADE_SERVER_GRPC_CALIBRATION_CALL_H_
#define KASCADE_SERVER_GRPC_CALIBRATION_CALL_H_

#include <atomic>
#include <memory>
#include <mutex>
#include <string>

#include "kascade/v1/calibration_service.pb.h"
#include "server/core/calibration_jobs.h"
#include "server/core/request_guard.h"
#include "server/grpc/stream_call.h"
#include "server/grpc/translate_calibration.h"

namespace kascade::server {

template <typename Response>
class CalibrationCall : public StreamCall<Response>, public core::CalibrationSubscriber {
 public:
  CalibrationCall(ServerContext& context, core::CalibrationJobs& jobs, const char* rpc)
      : StreamCall<Response>(context, rpc),
        jobs_(jobs),
        guard_(std::make_shared<core::RequestGuard>(context.memory)) {}

  void started(const core::CalibrationStarted& started) override {
    {
      const std::lock_guard lock(id_mutex_);
      id_ = started.id;
    }
    Response response;
    to_proto(started, *response.mutable_started());
    this->send(std::move(response));
  }
  void progress(const core::CalibrationReport& report) override {
    Response response;
    to_proto(report, *response.mutable_progress());
    this->send(std::move(response), [](Response& last, Response& next) {
      if (!last.has_progress() || !next.has_progress()) return Merged::kNothing;
      last.Swap(&next);
      return Merged::kReplaced;
    });
  }
  void ended(const absl::Status& status, const core::CalibrationResult* result) override {
    if (result != nullptr) {
      Response response;
      to_proto(*result, *response.mutable_result());
      this->send(std::move(response));
    }
    this->close(status);
  }

 protected:
  core::SubscriberPtr self() {
    return std::static_pointer_cast<CalibrationCall>(this->shared_from_this());
  }
  bool client_gone() const { return client_gone_; }
  void leave() {
    std::string id;
    {
      const std::lock_guard lock(id_mutex_);
      id = id_;
    }
    jobs_.unsubscribe(id, this, cancel_on_disconnect_);
    this->close(absl::CancelledError("the client is gone"));
  }

  core::CalibrationJobs& jobs_;
  const std::shared_ptr<core::RequestGuard> guard_;  // of the texts
  std::atomic<bool> cancel_on_disconnect_ = false;

 private:
  void cancelled() override {
    client_gone_ = true;
    guard_->cancel();
    leave();
  }

  std::atomic<bool> client_gone_ = false;
  std::mutex id_mutex_;
  std::string id_;
};

class CalibrateCall final : public CalibrationCall<v1::CalibrateResponse> {
 public:
  CalibrateCall(ServerContext& context, core::CalibrationJobs& jobs)
      : CalibrationCall(context, jobs, "Calibrate") {}
  void start(const v1::CalibrateRequest& request, absl::Time deadline);
};

class WatchCall final : public CalibrationCall<v1::WatchCalibrationResponse> {
 public:
  WatchCall(ServerContext& context, core::CalibrationJobs& jobs)
      : CalibrationCall(context, jobs, "WatchCalibration") {}
  void start(const v1::WatchCalibrationRequest& request, absl::Time deadline);
};

}  // namespace kascade::server

#endif  // KASCADE_SERVER_GRPC_CALIBRATION_CALL_H_
