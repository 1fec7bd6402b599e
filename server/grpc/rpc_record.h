// Accounts for one call: in flight from its arrival to finish(), then counted, timed and logged.
#ifndef KASCADE_SERVER_GRPC_RPC_RECORD_H_
#define KASCADE_SERVER_GRPC_RPC_RECORD_H_

#include <atomic>
#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "engine/base/refusal.h"
#include "grpcpp/server_context.h"
#include "grpcpp/support/status.h"
#include "server/core/server_context.h"
#include "server/log/request_identity.h"
#include "server/security/access_tokens.h"

namespace kascade::server {

using core::ServerContext;

class RpcRecord {
 public:
  // `context` outlives the record.
  RpcRecord(ServerContext& context, std::string rpc);
  RpcRecord(const RpcRecord&) = delete;
  RpcRecord& operator=(const RpcRecord&) = delete;
  ~RpcRecord();

  // Lets the call in, or says why not (server/grpc/access.h); to be called before any work for it.
  absl::Status admit(const grpc::ServerContextBase& call);
  // Who calls, for fairness between clients: the name of the access token, or else the peer's
  // address without its port. Empty before admit().
  const std::string& caller() const { return caller_; }

  // Counts and logs the end; returns the status that the client gets. The trailing metadata of
  // `call`, if it is given, tell the request's id and how busy the server is (load_report.h), and
  // with RESOURCE_EXHAUSTED they tell gRPC's own retry policy when to try again.
  grpc::Status finish(const absl::Status& status, grpc::ServerContextBase* call = nullptr);
  absl::Time arrival() const { return arrival_; }

  // What the request came to, for the log; any thread may count.
  struct Tokens {
    std::atomic<int64_t> prompt = 0;     // of a generation
    std::atomic<int64_t> generated = 0;  // likewise
    std::atomic<int64_t> scored = 0;
  };
  Tokens& tokens() { return tokens_; }

 private:
  void add_trailing_metadata(const Refusal& refusal, grpc::ServerContextBase& call) const;
  void log(const grpc::Status& status, double seconds) const;

  ServerContext& context_;
  const std::string rpc_;
  const absl::Time arrival_;
  std::string caller_{};
  logging::RequestIdentity identity_{};  // empty before admit()
  Tokens tokens_{};
  security::InFlight in_flight_{};  // until finish(): the client then sends its next request
};

}  // namespace kascade::server

#endif  // KASCADE_SERVER_GRPC_RPC_RECORD_H_
