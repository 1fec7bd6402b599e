// The RPCs of kascade.v1.ServerService.
#ifndef KASCADE_SERVER_GRPC_SERVER_SERVICE_H_
#define KASCADE_SERVER_GRPC_SERVER_SERVICE_H_

#include "kascade/v1/server_service.grpc.pb.h"
#include "server/core/configured_options.h"
#include "server/grpc/rpc_record.h"

namespace kascade::server {

class ServerService final : public v1::ServerService::CallbackService {
 public:
  // Both must outlive the service.
  ServerService(ServerContext& context, const core::ConfiguredOptions& options)
      : context_(context), options_(options) {}

  grpc::ServerUnaryReactor* GetConfiguration(grpc::CallbackServerContext* context,
                                             const v1::GetConfigurationRequest* request,
                                             v1::GetConfigurationResponse* response) override;

 private:
  ServerContext& context_;
  const core::ConfiguredOptions& options_;
};

}  // namespace kascade::server

#endif  // KASCADE_SERVER_GRPC_SERVER_SERVICE_H_
