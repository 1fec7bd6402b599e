#include "server/grpc/connections/connection_calls.h"

#include <chrono>
#include <utility>

#include "grpcpp/server_context.h"
#include "server/net/peer.h"

namespace kascade::server {
namespace {

// gRPC destroys the interceptor of a call when the call has ended.
class CallInterceptor final : public grpc::experimental::Interceptor {
 public:
  CallInterceptor(std::shared_ptr<net::Connections> connections,
                  net::Connections::Handle connection)
      : connections_(std::move(connections)), connection_(std::move(connection)) {}
  CallInterceptor(const CallInterceptor&) = delete;
  CallInterceptor& operator=(const CallInterceptor&) = delete;
  ~CallInterceptor() override {
    connections_->end_call(connection_, std::chrono::steady_clock::now());
  }

  void Intercept(grpc::experimental::InterceptorBatchMethods* methods) override {
    methods->Proceed();
  }

 private:
  const std::shared_ptr<net::Connections> connections_;  // calls may end after the server
  const net::Connections::Handle connection_;
};

class Factory final : public grpc::experimental::ServerInterceptorFactoryInterface {
 public:
  explicit Factory(std::shared_ptr<net::Connections> connections)
      : connections_(std::move(connections)) {}

  grpc::experimental::Interceptor* CreateServerInterceptor(
      grpc::experimental::ServerRpcInfo* info) override {
    auto connection = connections_->begin_call(net::peer_name(info->server_context()->peer()));
    if (connection == nullptr) return nullptr;
    return new CallInterceptor(connections_, std::move(connection));
  }

 private:
  const std::shared_ptr<net::Connections> connections_;
};

}  // namespace

std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface> count_calls(
    std::shared_ptr<net::Connections> connections) {
  return std::make_unique<Factory>(std::move(connections));
}

}  // namespace kascade::server
