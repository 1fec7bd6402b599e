#include "server/grpc/server.h"

#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "grpcpp/ext/proto_server_reflection_plugin.h"
#include "grpcpp/health_check_service_interface.h"
#include "grpcpp/security/server_credentials.h"
#include "grpcpp/server_builder.h"
#include "server/grpc/malformed_requests.h"
#include "server/net/address.h"
#include "spdlog/spdlog.h"

namespace kascade::server {
namespace {

constexpr int kWorkThreads = 2;
// For what was already answered to reach slow clients after the grace period.
constexpr absl::Duration kFlushTime = absl::Milliseconds(500);

int32_t message_limit(int64_t bytes) {
  return static_cast<int32_t>(std::clamp<int64_t>(bytes, 1 << 16, INT32_MAX));
}

absl::Status in_field(const char* field, const absl::Status& status) {
  return absl::Status(status.code(), absl::StrCat(field, ": ", status.message()));
}

// Both sides may ask whether the other is still there, on idle connections too.
void allow_pings(grpc::ServerBuilder& builder) {
  // Finds out about clients that vanished without closing, so that their blocks are freed.
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, 60'000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 20'000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  // Clients may ping every 10 seconds (docs/api.md). A ping that was sent 10 seconds after the last
  // one may arrive a little earlier than that.
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 5'000);
}

}  // namespace

absl::StatusOr<std::unique_ptr<Server>> Server::start(const ServerOptions& options) {
  auto engine = Engine::create(options.engine);
  if (!engine.ok()) return engine.status();
  std::unique_ptr<Server> server(new Server(options, *std::move(engine)));
  if (absl::Status status = server->load_schedules(); !status.ok()) return status;
  if (absl::Status status = server->listen(); !status.ok()) return status;
  server->lifecycle_ = Lifecycle::kServing;
  server->set_serving(true);
  return server;
}

Server::Server(const ServerOptions& options, std::unique_ptr<Engine> engine)
    : options_(options),
      engine_(std::move(engine)),
      engine_metrics_(std::make_shared<metrics::EngineCollector>(*engine_)),
      schedules_(*engine_, options.schedule_directory),
      work_(kWorkThreads),
      context_{.engine = *engine_,
               .schedules = schedules_,
               .metrics = metrics_,
               .work = *work_,
               .requests = requests_,
               .limits = {.max_message_bytes = message_limit(options.max_message_bytes),
                          .max_sequences = options.engine.max_sequences,
                          .max_queue = options.engine.max_queue,
                          .max_batch_tokens = options.engine.max_batch_tokens}},
      jobs_(*engine_, schedules_, metrics_),
      inference_(context_),
      calibration_(context_, jobs_) {}

Server::~Server() { drain(absl::ZeroDuration()); }

absl::Status Server::load_schedules() {
  if (absl::Status status = schedules_.load(); !status.ok()) return status;
  if (options_.schedule_file.empty()) return absl::OkStatus();
  return schedules_.load_active(options_.schedule_file);
}

absl::Status Server::listen_for_metrics() {
  if (options_.metrics_listen.empty()) return absl::OkStatus();
  const auto address = net::parse_address(options_.metrics_listen, net::Sockets::kTcpOnly);
  if (!address.ok()) return in_field("metrics_listen", address.status());
  auto listener = metrics::serve_metrics(*address, metrics_, engine_metrics_);
  if (!listener.ok()) return listener.status();
  metrics_listener_ = *std::move(listener);
  return absl::OkStatus();
}

absl::Status Server::listen() {
  const auto address = net::parse_address(options_.listen, net::Sockets::kTcpAndUnix);
  if (!address.ok()) return in_field("listen", address.status());
  if (absl::Status status = net::check_free(*address); !status.ok()) return status;
  if (absl::Status status = listen_for_metrics(); !status.ok()) return status;
  grpc::EnableDefaultHealthCheckService(true);
  grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  grpc::ServerBuilder builder;
  builder.AddListeningPort(address->text(), grpc::InsecureServerCredentials(), &port_);
  // Two servers on one port would share its connections at random.
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  allow_pings(builder);
  builder.SetMaxReceiveMessageSize(message_limit(options_.max_message_bytes));
  builder.experimental().SetInterceptorCreators(refuse_malformed_requests(context_));
  builder.RegisterService(&inference_);
  builder.RegisterService(&calibration_);
  grpc_ = builder.BuildAndStart();
  if (!grpc_ || port_ == 0) {
    // The address itself was free a moment ago.
    return absl::UnavailableError(
        absl::StrCat("cannot listen on ", address->text(),
                     ": another process took it, or listens on the same port of all interfaces"));
  }
  return absl::OkStatus();
}

void Server::set_serving(bool serving) {
  auto* health = grpc_->GetHealthCheckService();
  health->SetServingStatus("", serving);
  health->SetServingStatus(v1::InferenceService::service_full_name(), serving);
  health->SetServingStatus(v1::CalibrationService::service_full_name(), serving);
}

void Server::drain(absl::Duration grace) {
  if (lifecycle_ == Lifecycle::kStopped) return;
  const absl::Time deadline = absl::Now() + grace;
  lifecycle_ = Lifecycle::kDraining;
  context_.draining = true;
  if (grpc_) set_serving(false);
  jobs_.shutdown();
  engine_->drain(grace);
  if (grpc_) {
    if (!requests_.wait_until(std::max(deadline, absl::Now() + kFlushTime))) {
      spdlog::warn("some clients have not read their answers and are cut off");
    }
    grpc_->Shutdown(absl::ToChronoTime(absl::Now() + kFlushTime));
    grpc_->Wait();
  }
  metrics_listener_.reset();
  work_.reset();
  lifecycle_ = Lifecycle::kStopped;
}

std::string Server::metrics_text() const {
  return metrics::exposition_text(metrics_, *engine_metrics_);
}

}  // namespace kascade::server
