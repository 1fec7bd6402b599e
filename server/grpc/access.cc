#include "server/grpc/access.h"

#include <algorithm>
#include <vector>

#include "engine/base/refusal.h"
#include "google/protobuf/descriptor.h"
#include "grpc/grpc.h"
#include "kascade/v1/inference_service.grpc.pb.h"

namespace kascade::server {
namespace {

using grpc::experimental::InterceptionHookPoints;
using grpc::experimental::InterceptorBatchMethods;
using security::Scope;

constexpr char kAuthorization[] = "authorization";
constexpr std::string_view kReflection = "/grpc.reflection.";

// Of CalibrationService; what is not here, or of ServerService, is for operators.
constexpr std::string_view kCalibrateMethods[] = {
    "Calibrate",         "WatchCalibration", "GetCalibration", "ListCalibrations",
    "CancelCalibration", "GetSchedule",      "ListSchedules"};

std::vector<std::string_view> authorization_of(const grpc::ServerContextBase& call) {
  std::vector<std::string_view> values;
  const auto [begin, end] = call.client_metadata().equal_range(kAuthorization);
  for (auto it = begin; it != end; ++it) {
    values.emplace_back(it->second.data(), it->second.size());
  }
  return values;
}

bool is_inference(std::string_view rpc) {
  const auto* service = google::protobuf::DescriptorPool::generated_pool()->FindServiceByName(
      v1::InferenceService::service_full_name());
  return service != nullptr && service->FindMethodByName(std::string(rpc)) != nullptr;
}

class ReflectionInterceptor final : public grpc::experimental::Interceptor {
 public:
  ReflectionInterceptor(const security::AccessTokens& tokens, grpc::ServerContextBase& call)
      : tokens_(tokens), call_(call) {}

  void Intercept(InterceptorBatchMethods* methods) override {
    if (methods->QueryInterceptionHookPoint(InterceptionHookPoints::POST_RECV_INITIAL_METADATA)) {
      const absl::Status status = tokens_.check_known(authorization_of(call_));
      if (!status.ok()) {
        grpc_call_cancel_with_status(call_.c_call(), GRPC_STATUS_UNAUTHENTICATED,
                                     message_of(status).c_str(), nullptr);
      }
    }
    methods->Proceed();
  }

 private:
  const security::AccessTokens& tokens_;
  grpc::ServerContextBase& call_;
};

class ReflectionGuard final : public grpc::experimental::ServerInterceptorFactoryInterface {
 public:
  explicit ReflectionGuard(const core::ServerContext& context) : context_(context) {}

  grpc::experimental::Interceptor* CreateServerInterceptor(
      grpc::experimental::ServerRpcInfo* info) override {
    const bool guarded = std::string_view(info->method()).starts_with(kReflection);
    if (!guarded || context_.access_tokens == nullptr) return nullptr;
    return new ReflectionInterceptor(*context_.access_tokens, *info->server_context());
  }

 private:
  const core::ServerContext& context_;
};

}  // namespace

Scope scope_of(std::string_view rpc) {
  if (is_inference(rpc)) return Scope::kInfer;
  const bool calibrate = std::ranges::find(kCalibrateMethods, rpc) != std::end(kCalibrateMethods);
  return calibrate ? Scope::kCalibrate : Scope::kAdmin;
}

absl::StatusOr<security::AdmittedRequest> admit(const core::ServerContext& context,
                                                const grpc::ServerContextBase& call,
                                                std::string_view rpc) {
  if (context.access_tokens == nullptr) return security::AdmittedRequest{};
  return context.access_tokens->admit(authorization_of(call), scope_of(rpc), rpc);
}

std::string peer_without_port(const std::string& peer) {
  const bool has_port = peer.starts_with("ipv4:") || peer.starts_with("ipv6:");
  return has_port ? peer.substr(0, peer.rfind(':')) : peer;
}

std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface> guard_reflection(
    const core::ServerContext& context) {
  return std::make_unique<ReflectionGuard>(context);
}

}  // namespace kascade::server
