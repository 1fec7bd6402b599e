#include "server/grpc/malformed_requests.h"

#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/refusal.h"
#include "server/grpc/errors.h"
#include "server/grpc/rpc_record.h"

namespace kascade::server {
namespace {

using grpc::experimental::InterceptionHookPoints;
using grpc::experimental::InterceptorBatchMethods;
using grpc::experimental::ServerRpcInfo;

constexpr std::string_view kPackage = "/kascade.v1.";

// Every method NAME of our services takes a message NAMERequest (buf lint checks it).
absl::Status malformed(const std::string& rpc) {
  return refuse(absl::StatusCode::kInvalidArgument,
                absl::StrCat("the request is no kascade.v1.", rpc,
                             "Request: its bytes are cut short or damaged, or a string field holds "
                             "bytes that are not UTF-8"),
                {.reason = kMalformedRequest});
}

class Interceptor final : public grpc::experimental::Interceptor {
 public:
  Interceptor(ServerContext& context, const grpc::ServerContextBase& call, std::string rpc)
      : context_(context), call_(call), rpc_(std::move(rpc)) {}

  void Intercept(InterceptorBatchMethods* methods) override {
    // Our methods receive one message, before anything is sent; without one it was not parsed, or
    // the client has cancelled the call before it came.
    if (methods->QueryInterceptionHookPoint(InterceptionHookPoints::POST_RECV_MESSAGE)) {
      has_no_request_ = methods->GetRecvMessage() == nullptr;
    }
    if (has_no_request_ &&
        methods->QueryInterceptionHookPoint(InterceptionHookPoints::PRE_SEND_STATUS)) {
      record_.emplace(context_, rpc_);
      end_ = record_->admit(call_);
      if (end_.ok()) end_ = malformed(rpc_);
      methods->ModifySendStatus(to_grpc(end_));
    }
    // Only now is it known which.
    if (record_ && methods->QueryInterceptionHookPoint(InterceptionHookPoints::POST_RECV_CLOSE)) {
      record_->finish(call_.IsCancelled() ? absl::CancelledError("the client is gone") : end_);
      record_.reset();
    }
    methods->Proceed();
  }

 private:
  ServerContext& context_;
  const grpc::ServerContextBase& call_;
  const std::string rpc_;
  bool has_no_request_ = false;
  std::optional<RpcRecord> record_{};  // of such a call
  absl::Status end_{};
};

class Factory final : public grpc::experimental::ServerInterceptorFactoryInterface {
 public:
  explicit Factory(ServerContext& context) : context_(context) {}

  grpc::experimental::Interceptor* CreateServerInterceptor(ServerRpcInfo* info) override {
    const std::string_view method = info->method();  // "/package.Service/Name"
    if (!method.starts_with(kPackage)) return nullptr;
    // To a call that receives a stream, a message that was not parsed looks like the end of the
    // stream: it has to know by itself whether that has come.
    if (info->type() == ServerRpcInfo::Type::BIDI_STREAMING) return nullptr;
    return new Interceptor(context_, *info->server_context(),
                           std::string(method.substr(method.rfind('/') + 1)));
  }

 private:
  ServerContext& context_;
};

}  // namespace

std::vector<std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface>>
refuse_malformed_requests(ServerContext& context) {
  std::vector<std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface>> factories;
  factories.push_back(std::make_unique<Factory>(context));
  return factories;
}

}  // namespace kascade::server
