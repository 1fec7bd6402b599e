// The connection to the server, one Call per RPC, and cancellation by Ctrl-C.
#ifndef KASCADE_CLIENT_RPC_CALL_H_
#define KASCADE_CLIENT_RPC_CALL_H_

#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>
#include <grpcpp/support/channel_arguments.h>

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace kascade::client {

// How to reach the server, and as whom.
struct Credentials {
  bool tls = false;
  std::string authorities{};  // PEM file; empty: those of the system
  std::string certificate{};  // PEM file of the client; empty: none
  std::string key{};          // PEM file of its key
  std::string token_file{};   // holds the access token; empty: KASCADE_TOKEN holds it
  std::string token{};        // set by read_token(); empty: none is sent

  bool uses_tls() const { return tls || !authorities.empty() || !certificate.empty(); }
};

// The options that every command has.
struct Globals {
  std::string server = "127.0.0.1:50051";
  Credentials credentials{};
  bool json = false;
  double timeout_seconds = 0;  // for each call; 0 means no limit
};

// Makes SIGINT and SIGTERM cancel the Calls that exist at that time; if there is none, they end the
// process. Must be called before any other thread starts, because threads inherit the signal mask.
void watch_interrupts();

// While a HeldInterrupts object exists, an interrupt between two calls cancels the next call
// instead of ending the process.
class HeldInterrupts {
 public:
  HeldInterrupts();
  ~HeldInterrupts();
  HeldInterrupts(const HeldInterrupts&) = delete;
  HeldInterrupts& operator=(const HeldInterrupts&) = delete;
};

// Connects within a few seconds; otherwise returns UNAVAILABLE with the address. `arguments` beside
// those of every channel.
absl::StatusOr<std::shared_ptr<grpc::Channel>> connect(const Globals& globals,
                                                       grpc::ChannelArguments arguments = {});

// Cancels the Calls that exist.
void cancel_calls();

// One RPC. An interrupt cancels it while this object exists.
class Call {
 public:
  explicit Call(const Globals& globals);
  ~Call();
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;

  grpc::ClientContext& context() { return context_; }
  bool interrupted() const;
  void cancel() { context_.TryCancel(); }
  // Converts the status of the RPC to this client's error message.
  absl::Status result(const grpc::Status& status) const;

 private:
  const Globals& globals_;
  grpc::ClientContext context_;
};

// Makes a unary call: call(globals, stub, &Service::Stub::Method, request).
template <typename Stub, typename Request, typename Response>
absl::StatusOr<Response> call(const Globals& globals, Stub& stub,
                              grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&,
                                                           Response*),
                              const Request& request) {
  Call call(globals);
  Response response;
  const absl::Status status = call.result((stub.*method)(&call.context(), request, &response));
  if (!status.ok()) return status;
  return response;
}

// Connects and makes a unary call, for commands that make only one.
template <typename Service, typename Request, typename Response>
absl::StatusOr<Response> connect_and_call(
    const Globals& globals,
    grpc::Status (Service::Stub::*method)(grpc::ClientContext*, const Request&, Response*),
    const Request& request) {
  const auto channel = connect(globals);
  if (!channel.ok()) return channel.status();
  const auto stub = Service::NewStub(*channel);
  return call(globals, *stub, method, request);
}

// The pages of a list as one message, `merge(page, all)` adding each page but the first.
template <typename Service, typename Request, typename Response, typename MergePage>
absl::StatusOr<Response> connect_and_list(
    const Globals& globals,
    grpc::Status (Service::Stub::*method)(grpc::ClientContext*, const Request&, Response*),
    MergePage merge) {
  const auto channel = connect(globals);
  if (!channel.ok()) return channel.status();
  const auto stub = Service::NewStub(*channel);
  Request request;
  auto all = call(globals, *stub, method, request);
  while (all.ok() && !all->next_page_token().empty()) {
    request.set_page_token(all->next_page_token());
    auto page = call(globals, *stub, method, request);
    if (!page.ok()) return page.status();
    all->set_next_page_token(page->next_page_token());
    merge(*page, *all);
  }
  return all;
}

}  // namespace kascade::client

#endif  // KASCADE_CLIENT_RPC_CALL_H_
