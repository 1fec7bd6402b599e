// A server with nothing of its own but the health service: what HTTP/2 conformance gRPC itself has.
// Prints its port and serves until it is killed.
#include <iostream>
#include <memory>

#include "grpcpp/grpcpp.h"
#include "grpcpp/health_check_service_interface.h"

int main() {
  grpc::EnableDefaultHealthCheckService(true);
  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
  // gRPC wants one, although no service of its own uses it.
  const std::unique_ptr<grpc::ServerCompletionQueue> queue = builder.AddCompletionQueue();
  const std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  if (server == nullptr) return 1;
  std::cout << port << std::endl;
  server->Wait();
}
