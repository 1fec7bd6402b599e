// The whole server: engine, services, listeners, and the order in which they come and go.
#ifndef KASCADE_SERVER_GRPC_SERVER_H_
#define KASCADE_SERVER_GRPC_SERVER_H_

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "engine/engine.h"
#include "grpcpp/server.h"
#include "server/core/calibration_jobs.h"
#include "server/core/configured_options.h"
#include "server/core/memory_budget.h"
#include "server/core/reader_monitor.h"
#include "server/core/request_tracker.h"
#include "server/core/schedules.h"
#include "server/core/server_context.h"
#include "server/core/shadow.h"
#include "server/core/work_queue.h"
#include "server/grpc/calibration_service.h"
#include "server/grpc/connections/connection_options.h"
#include "server/grpc/connections/flood_guard.h"
#include "server/grpc/credentials.h"
#include "server/grpc/health.h"
#include "server/grpc/inference_service.h"
#include "server/grpc/server_service.h"
#include "server/metrics/exposition.h"
#include "server/metrics/metrics.h"
#include "server/net/acceptor.h"
#include "server/net/connections.h"
#include "server/security/access_tokens.h"
#include "server/security/listener_security.h"

namespace kascade::server {

struct ServerOptions {
  EngineOptions engine{};
  // Both as server/net/address.h parses them; port 0: any free one.
  std::string listen = "127.0.0.1:50051";         // HOST:PORT or unix:PATH
  std::string metrics_listen = "127.0.0.1:9464";  // HOST:PORT; empty: none
  std::filesystem::path schedule_file{};          // activated at start
  std::filesystem::path schedule_directory{};     // empty: schedules and jobs end with the server
  security::ListenerSecurity security{};
  ConnectionOptions connections{};
  int32_t stall_seconds = 300;  // as `patience` of Health
  int64_t max_message_bytes = int64_t{16} << 20;
  int64_t request_memory_bytes = int64_t{1} << 30;  // of all requests together
  int32_t stalled_client_seconds = 120;  // a call whose client reads nothing for so long is ended
  double shadow_rate = 0;    // share of sparse requests that are compared with dense, [0, 1]
  bool load_reports = true;  // at the end of each call, for load balancers (load_report.h)
  std::vector<core::ConfiguredOption> configured_options{};  // all of these as texts, to be told
};

// In this order, never backwards. Health says that the server is ready only in kServing.
enum class Lifecycle { kLoading, kServing, kLeaving, kDraining, kStopped };

class Server {
 public:
  // Loads the model and listens. The error names the file, field or address that is at fault.
  static absl::StatusOr<std::unique_ptr<Server>> start(const ServerOptions& options);
  ~Server();  // stops at once

  // The steps of a shutdown, in this order; each is idempotent, and each takes those before it.
  //
  // Health turns NOT_SERVING. Requests are accepted as before, so that none is refused before
  // clients and proxies have noticed.
  void leave();
  // New connections are refused. Requests on those that exist are accepted as before.
  void close_listener();
  // New requests get UNAVAILABLE, a calibration stops (the next server continues it if there is a
  // schedule_directory, else it is cancelled), running requests have `grace` to end; then
  // connections are closed.
  void drain(absl::Duration grace);

  Lifecycle lifecycle() const { return lifecycle_; }
  int port() const { return port_; }  // 0 for a unix socket
  int metrics_port() const { return metrics_listener_ ? metrics_listener_->port() : 0; }
  Engine& engine() { return *engine_; }
  std::string metrics_text() const;
  const net::ConnectionLimits& connection_limits() const { return connections_->limits(); }

  // What a running server can change, beside the limits of the engine's queue. Thread-safe.
  void set_shadow_rate(double rate) { shadow_.set_rate(rate); }
  void set_configured_options(std::vector<core::ConfiguredOption> options) {
    configured_.set(std::move(options));
  }
  // Looks at the TLS and token files at once, instead of within a second. What is wrong with one
  // is logged, and the server goes on with what it had.
  void read_security_files_again();

 private:
  Server(const ServerOptions& options, std::unique_ptr<Engine> engine);
  absl::Status load_schedules();
  // After the schedules: a calibration that is continued may activate its own.
  void open_calibrations();
  metrics::Collectors collectors() const;
  absl::Status open_security();
  absl::Status listen_for_metrics();
  absl::Status listen();
  // Starts gRPC, and the loop that accepts its connections.
  absl::Status serve(net::Listener listener);

  const ServerOptions options_;
  std::atomic<Lifecycle> lifecycle_ = Lifecycle::kLoading;
  const std::unique_ptr<Engine> engine_;
  metrics::ServerMetrics metrics_;
  core::RequestTracker requests_;
  core::MemoryBudget memory_;
  core::ReaderMonitor readers_;
  core::Schedules schedules_;
  std::optional<core::WorkQueue> work_;
  std::unique_ptr<security::AccessTokens> access_tokens_;  // null: clients need none
  core::ServerContext context_;
  core::CalibrationJobs jobs_;
  core::Shadow shadow_;
  core::ConfiguredOptions configured_;
  InferenceService inference_;
  CalibrationService calibration_;
  ServerService server_service_;
  Health health_;
  std::shared_ptr<net::Connections> connections_;
  std::unique_ptr<net::HttpServer> metrics_listener_;
  ListenerCredentials credentials_;  // outlive the server that uses them
  std::unique_ptr<grpc::Server> grpc_;
  std::unique_ptr<net::Acceptor> acceptor_;
  std::unique_ptr<FloodGuard> flood_guard_;
  int port_ = 0;
};

}  // namespace kascade::server

#endif  // KASCADE_SERVER_GRPC_SERVER_H_
