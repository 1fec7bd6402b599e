#include "server/grpc/server.h"

#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "engine/base/clock.h"
#include "grpcpp/ext/proto_server_reflection_plugin.h"
#include "grpcpp/health_check_service_interface.h"
#include "grpcpp/resource_quota.h"
#include "grpcpp/server_builder.h"
#include "server/grpc/access.h"
#include "server/grpc/connections/connection_calls.h"
#include "server/grpc/malformed_requests.h"
#include "server/metrics/engine_collector.h"
#include "server/metrics/state_collector.h"
#include "server/net/address.h"
#include "server/net/descriptors.h"
#include "spdlog/spdlog.h"

namespace kascade::server {
namespace {

constexpr int kWorkThreads = 2;
// For what was already answered to reach slow clients after the grace period.
constexpr absl::Duration kFlushTime = absl::Milliseconds(500);

int32_t message_limit(int64_t bytes) {
  return static_cast<int32_t>(std::clamp<int64_t>(bytes, 1 << 16, INT32_MAX));
}

// A quarter of the memory of requests is for messages that are being received, which gRPC holds:
// the budget learns of them when they are complete.
int64_t receive_quota(const ServerOptions& options) { return options.request_memory_bytes / 4; }

// Where the quota is small, one fast client could fill it with what is not read yet, because gRPC
// lets the window of a connection grow to 16 MiB; it would then reset the stream. Without probes
// of the bandwidth windows stay at 64 KiB.
void limit_receiving(grpc::ServerBuilder& builder, int64_t quota_bytes) {
  constexpr int64_t kFourWindows = int64_t{64} << 20;
  grpc::ResourceQuota quota("requests being received");
  quota.Resize(static_cast<size_t>(quota_bytes));
  builder.SetResourceQuota(quota);
  if (quota_bytes < kFourWindows) builder.AddChannelArgument(GRPC_ARG_HTTP2_BDP_PROBE, 0);
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

// 200 while `state` is true, else 503.
net::Page state_page(const char* path, std::function<bool()> state) {
  return {.path = path,
          .content_type = "text/plain; charset=utf-8",
          .content = [state = std::move(state)] {
            const bool available = state();
            return net::PageText{.available = available, .text = available ? "ok\n" : "no\n"};
          }};
}

// Before the model loads, which may take minutes.
absl::Status check_security(const ServerOptions& options) {
  const auto address = net::parse_address(options.listen, net::Sockets::kTcpAndUnix);
  if (!address.ok()) return in_field("listen", address.status());
  return security::check(options.security, *address);
}

}  // namespace

absl::StatusOr<std::unique_ptr<Server>> Server::start(const ServerOptions& options) {
  if (absl::Status status = check_security(options); !status.ok()) return status;
  EngineOptions engine_options = options.engine;
  engine_options.request_memory_bytes = options.request_memory_bytes;
  auto engine = Engine::create(engine_options);
  if (!engine.ok()) return engine.status();
  std::unique_ptr<Server> server(new Server(options, *std::move(engine)));
  if (absl::Status status = server->load_schedules(); !status.ok()) return status;
  if (absl::Status status = server->open_security(); !status.ok()) return status;
  server->open_calibrations();
  if (absl::Status status = server->listen(); !status.ok()) return status;
  server->lifecycle_ = Lifecycle::kServing;
  server->health_.start(*server->grpc_->GetHealthCheckService(), *server->acceptor_);
  return server;
}

Server::Server(const ServerOptions& options, std::unique_ptr<Engine> engine)
    : options_(options),
      engine_(std::move(engine)),
      memory_(options.request_memory_bytes - receive_quota(options), metrics_),
      readers_(absl::Seconds(options.stalled_client_seconds), memory_),
      schedules_(*engine_, options.schedule_directory),
      work_(kWorkThreads),
      context_{.engine = *engine_,
               .schedules = schedules_,
               .metrics = metrics_,
               .work = *work_,
               .requests = requests_,
               .memory = memory_,
               .readers = readers_,
               .limits = {.max_message_bytes = message_limit(options.max_message_bytes),
                          .request_memory_bytes = memory_.limit(),
                          .max_sequences = options.engine.max_sequences,
                          .max_batch_tokens = options.engine.max_batch_tokens}},
      jobs_(*engine_, schedules_, metrics_),
      shadow_(*engine_, memory_, metrics_, options.shadow_rate, options.engine.max_sequences / 2),
      configured_(options.configured_options),
      inference_(context_),
      calibration_(context_, jobs_),
      server_service_(context_, configured_),
      health_(*engine_, std::chrono::seconds(options.stall_seconds)) {
  context_.shadow = &shadow_;
  context_.load_reports = options.load_reports;
}

Server::~Server() { drain(absl::ZeroDuration()); }

absl::Status Server::load_schedules() {
  if (absl::Status status = schedules_.load(); !status.ok()) return status;
  if (options_.schedule_file.empty()) return absl::OkStatus();
  return schedules_.load_active(options_.schedule_file);
}

void Server::open_calibrations() {
  if (options_.schedule_directory.empty()) return;
  jobs_.open(options_.schedule_directory / "calibrations", memory_);
}

metrics::Collectors Server::collectors() const {
  return {std::make_shared<metrics::EngineCollector>(*engine_),
          std::make_shared<metrics::StateCollector>(*connections_,
                                                    [this] { return health_.stalled(); })};
}

absl::Status Server::open_security() {
  auto credentials = listener_credentials(options_.security.tls, [this](absl::Time expiry) {
    metrics_.set_certificate_expiry(expiry);
  });
  if (!credentials.ok()) return credentials.status();
  credentials_ = *std::move(credentials);
  if (options_.security.tokens.empty()) return absl::OkStatus();
  auto tokens = security::AccessTokens::open(options_.security.tokens);
  if (!tokens.ok()) return tokens.status();
  access_tokens_ = *std::move(tokens);
  context_.access_tokens = access_tokens_.get();
  return absl::OkStatus();
}

absl::Status Server::listen_for_metrics() {
  if (options_.metrics_listen.empty()) return absl::OkStatus();
  const auto address = net::parse_address(options_.metrics_listen, net::Sockets::kTcpOnly);
  if (!address.ok()) return in_field("metrics_listen", address.status());
  auto listener =
      metrics::serve_metrics(*address, metrics_, collectors(),
                             {state_page("/livez", [this] { return health_.live(); }),
                              state_page("/readyz", [this] { return health_.ready(); })});
  if (!listener.ok()) return listener.status();
  metrics_listener_ = *std::move(listener);
  return absl::OkStatus();
}

absl::Status Server::listen() {
  const auto address = net::parse_address(options_.listen, net::Sockets::kTcpAndUnix);
  if (!address.ok()) return in_field("listen", address.status());
  const auto limits =
      server::connection_limits(options_.connections, net::raise_descriptor_limit());
  if (!limits.ok()) return limits.status();
  connections_ = std::make_shared<net::Connections>(*limits);
  auto listener = net::Listener::open(*address, net::Wildcard::kBothFamilies);
  if (!listener.ok()) return listener.status();
  port_ = listener->port();
  if (absl::Status status = listen_for_metrics(); !status.ok()) return status;
  return serve(*std::move(listener));
}

absl::Status Server::serve(net::Listener listener) {
  grpc::EnableDefaultHealthCheckService(true);
  grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  grpc::ServerBuilder builder;
  using External = grpc::ServerBuilder::experimental_type::ExternalConnectionType;
  std::shared_ptr<grpc::experimental::ExternalConnectionAcceptor> connections =
      builder.experimental().AddExternalConnectionAcceptor(External::FROM_FD,
                                                           credentials_.credentials);
  allow_pings(builder);
  limit_connections(builder, options_.connections);
  limit_receiving(builder, receive_quota(options_));
  builder.SetMaxReceiveMessageSize(message_limit(options_.max_message_bytes));
  auto interceptors = refuse_malformed_requests(context_);
  interceptors.push_back(count_calls(connections_));
  interceptors.push_back(guard_reflection(context_));
  builder.experimental().SetInterceptorCreators(std::move(interceptors));
  builder.RegisterService(&inference_);
  builder.RegisterService(&calibration_);
  builder.RegisterService(&server_service_);
  grpc_ = builder.BuildAndStart();
  if (!grpc_) return absl::InternalError("gRPC did not start");
  auto acceptor = net::Acceptor::start(
      std::move(listener), *connections_, [connections](net::Socket connection) {
        grpc::experimental::ExternalConnectionAcceptor::NewConnectionParameters parameters;
        parameters.fd = connection.release();
        connections->HandleNewConnection(&parameters);
      });
  if (!acceptor.ok()) return acceptor.status();
  acceptor_ = *std::move(acceptor);
  flood_guard_ = std::make_unique<FloodGuard>(
      *connections_, stream_limits(options_.connections, options_.max_message_bytes),
      [this] { return memory_.used(); });
  return absl::OkStatus();
}

void Server::leave() {
  auto serving = Lifecycle::kServing;
  if (lifecycle_.compare_exchange_strong(serving, Lifecycle::kLeaving)) health_.set_unready();
}

void Server::close_listener() {
  leave();
  if (acceptor_) acceptor_->stop_listening();
}

void Server::drain(absl::Duration grace) {
  if (lifecycle_ == Lifecycle::kStopped) return;
  const absl::Time deadline = steady_now() + grace;
  close_listener();
  lifecycle_ = Lifecycle::kDraining;
  context_.draining = true;
  jobs_.shutdown();
  shadow_.stop();
  engine_->drain(grace);
  if (grpc_) {
    if (!requests_.wait_for(std::max(deadline - steady_now(), kFlushTime))) {
      spdlog::warn("some clients have not read their answers and are cut off");
    }
    health_.stop();
    flood_guard_.reset();
    acceptor_.reset();
    grpc_->Shutdown(absl::ToChronoTime(absl::Now() + kFlushTime));
    grpc_->Wait();
  }
  metrics_listener_.reset();
  work_.reset();
  lifecycle_ = Lifecycle::kStopped;
}

void Server::read_security_files_again() {
  if (credentials_.read_again) credentials_.read_again();
  if (access_tokens_) access_tokens_->read_again();
}

std::string Server::metrics_text() const {
  return metrics::exposition_text(metrics_, collectors());
}

}  // namespace kascade::server
