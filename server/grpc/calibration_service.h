// The RPCs of kascade.v1.CalibrationService.
#ifndef KASCADE_SERVER_GRPC_CALIBRATION_SERVICE_H_
#define KASCADE_SERVER_GRPC_CALIBRATION_SERVICE_H_

#include "kascade/v1/calibration_service.grpc.pb.h"
#include "server/core/calibration_jobs.h"
#include "server/grpc/rpc_record.h"

namespace kascade::server {

class CalibrationService final : public v1::CalibrationService::CallbackService {
 public:
  // Both must outlive the service.
  CalibrationService(ServerContext& context, core::CalibrationJobs& jobs)
      : context_(context), jobs_(jobs) {}

  grpc::ServerWriteReactor<v1::CalibrateResponse>* Calibrate(
      grpc::CallbackServerContext* context, const v1::CalibrateRequest* request) override;
  grpc::ServerWriteReactor<v1::WatchCalibrationResponse>* WatchCalibration(
      grpc::CallbackServerContext* context, const v1::WatchCalibrationRequest* request) override;
  grpc::ServerUnaryReactor* GetCalibration(grpc::CallbackServerContext* context,
                                           const v1::GetCalibrationRequest* request,
                                           v1::GetCalibrationResponse* response) override;
  grpc::ServerUnaryReactor* ListCalibrations(grpc::CallbackServerContext* context,
                                             const v1::ListCalibrationsRequest* request,
                                             v1::ListCalibrationsResponse* response) override;
  grpc::ServerUnaryReactor* CancelCalibration(grpc::CallbackServerContext* context,
                                              const v1::CancelCalibrationRequest* request,
                                              v1::CancelCalibrationResponse* response) override;
  grpc::ServerUnaryReactor* DeleteCalibration(grpc::CallbackServerContext* context,
                                              const v1::DeleteCalibrationRequest* request,
                                              v1::DeleteCalibrationResponse* response) override;
  grpc::ServerUnaryReactor* GetSchedule(grpc::CallbackServerContext* context,
                                        const v1::GetScheduleRequest* request,
                                        v1::GetScheduleResponse* response) override;
  grpc::ServerUnaryReactor* ListSchedules(grpc::CallbackServerContext* context,
                                          const v1::ListSchedulesRequest* request,
                                          v1::ListSchedulesResponse* response) override;
  grpc::ServerUnaryReactor* ActivateSchedule(grpc::CallbackServerContext* context,
                                             const v1::ActivateScheduleRequest* request,
                                             v1::ActivateScheduleResponse* response) override;
  grpc::ServerUnaryReactor* DeactivateSchedule(grpc::CallbackServerContext* context,
                                               const v1::DeactivateScheduleRequest* request,
                                               v1::DeactivateScheduleResponse* response) override;
  grpc::ServerUnaryReactor* DeleteSchedule(grpc::CallbackServerContext* context,
                                           const v1::DeleteScheduleRequest* request,
                                           v1::DeleteScheduleResponse* response) override;

 private:
  ServerContext& context_;
  core::CalibrationJobs& jobs_;
};

}  // namespace kascade::server

#endif  // KASCADE_SERVER_GRPC_CALIBRATION_SERVICE_H_
