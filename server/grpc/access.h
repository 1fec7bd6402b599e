// Who may call which method: access tokens as they come with a gRPC call.
#ifndef KASCADE_SERVER_GRPC_ACCESS_H_
#define KASCADE_SERVER_GRPC_ACCESS_H_

#include <memory>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "grpcpp/server_context.h"
#include "grpcpp/support/server_interceptor.h"
#include "server/core/server_context.h"
#include "server/security/access_tokens.h"

namespace kascade::server {

// The scope that a method of our services needs: "infer" for InferenceService, "admin" for what
// changes which schedule is active and for ServerService, "calibrate" for the rest of
// CalibrationService. A method that
// is not known needs "admin".
security::Scope scope_of(std::string_view rpc);

// Lets a call of the method `rpc` in, or says why not (AccessTokens::admit). Without a file of
// access tokens everybody may call everything, and token_name is empty.
absl::StatusOr<security::AdmittedRequest> admit(const core::ServerContext& context,
                                                const grpc::ServerContextBase& call,
                                                std::string_view rpc);

// Where a call comes from, without the port: "ipv4:10.0.0.7", "unix:/run/kascade.sock".
std::string peer_without_port(const std::string& peer);

// Refuses calls of the reflection service without a known access token. `context` must outlive the
// server. The service is gRPC's own, so its calls end without an ErrorInfo.
std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface> guard_reflection(
    const core::ServerContext& context);

}  // namespace kascade::server

#endif  // KASCADE_SERVER_GRPC_ACCESS_H_
