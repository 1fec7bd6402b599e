#include "server/grpc/server_service.h"

#include "server/grpc/unary_call.h"

namespace kascade::server {

grpc::ServerUnaryReactor* ServerService::GetConfiguration(
    grpc::CallbackServerContext* call, const v1::GetConfigurationRequest* request,
    v1::GetConfigurationResponse* response) {
  return run_unary(context_, "GetConfiguration", call, *request, [this, response](auto&) {
    for (const core::ConfiguredOption& option : options_.get()) {
      v1::ConfigurationOption& out = *response->add_options();
      out.set_name(option.name);
      out.set_value(option.value);
      out.set_source(option.source);
      out.set_reloadable(option.reloadable);
    }
    return absl::OkStatus();
  });
}

}  // namespace kascade::server
