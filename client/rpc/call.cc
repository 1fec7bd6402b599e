#include "client/rpc/call.h"

#include <fmt/format.h>
#include <grpcpp/create_channel.h>
#include <signal.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <mutex>
#include <set>
#include <thread>
#include <utility>

#include "client/rpc/credentials.h"
#include "client/rpc/failure.h"

namespace kascade::client {
namespace {

constexpr std::chrono::seconds kConnectPatience{5};

// gRPC sends a call again that no server has begun to answer: of several servers behind a proxy,
// one may have been lost. What changes a server is not sent twice.
constexpr char kServiceConfig[] = R"({"methodConfig": [{
  "name": [{"service": "kascade.v1.InferenceService"},
           {"service": "kascade.v1.CalibrationService", "method": "GetSchedule"},
           {"service": "kascade.v1.CalibrationService", "method": "ListSchedules"},
           {"service": "kascade.v1.CalibrationService", "method": "GetCalibration"},
           {"service": "kascade.v1.CalibrationService", "method": "ListCalibrations"},
           {"service": "kascade.v1.CalibrationService", "method": "WatchCalibration"}],
  "retryPolicy": {"maxAttempts": 4, "initialBackoff": "0.2s", "maxBackoff": "2s",
                  "backoffMultiplier": 2, "retryableStatusCodes": ["UNAVAILABLE"]}}]})";
// Of one request. What is larger is sent once.
constexpr int kRetryBufferBytes = 32 << 20;

std::mutex interrupt_mutex;
std::set<grpc::ClientContext*> cancellable;  // guarded by interrupt_mutex
bool was_interrupted = false;                // guarded by interrupt_mutex
bool cancel_next = false;                    // guarded by interrupt_mutex
int held = 0;                                // guarded by interrupt_mutex

void handle_interrupts(const sigset_t& signals) {
  while (true) {
    int signal = 0;
    if (sigwait(&signals, &signal) != 0) continue;
    const std::lock_guard lock(interrupt_mutex);
    // If there is nothing to cancel, or a call was cancelled before and the process still runs, end
    // it at once.
    if ((cancellable.empty() && held == 0) || was_interrupted) {
      print_failure(absl::CancelledError("interrupted"));
      _exit(kFailure);
    }
    was_interrupted = true;
    cancel_next = cancellable.empty();
    for (grpc::ClientContext* context : cancellable) context->TryCancel();
  }
}

}  // namespace

HeldInterrupts::HeldInterrupts() {
  const std::lock_guard lock(interrupt_mutex);
  ++held;
}

HeldInterrupts::~HeldInterrupts() {
  const std::lock_guard lock(interrupt_mutex);
  --held;
}

void watch_interrupts() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  std::thread(handle_interrupts, signals).detach();
}

void cancel_calls() {
  const std::lock_guard lock(interrupt_mutex);
  for (grpc::ClientContext* context : cancellable) context->TryCancel();
}

absl::StatusOr<std::shared_ptr<grpc::Channel>> connect(const Globals& globals,
                                                       grpc::ChannelArguments arguments) {
  arguments.SetMaxReceiveMessageSize(-1);
  // A model server is not reached through a web proxy, and a proxy from the environment would also
  // be used for 127.0.0.1.
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  arguments.SetServiceConfigJSON(kServiceConfig);
  arguments.SetInt(GRPC_ARG_PER_RPC_RETRY_BUFFER_SIZE, kRetryBufferBytes);
  const auto credentials = channel_credentials(globals.credentials);
  if (!credentials.ok()) return credentials.status();
  auto channel = grpc::CreateCustomChannel(globals.server, *credentials, arguments);
  const auto deadline = std::chrono::system_clock::now() + kConnectPatience;
  auto state = channel->GetState(/*try_to_connect=*/true);
  while (state != GRPC_CHANNEL_READY) {
    if (state == GRPC_CHANNEL_TRANSIENT_FAILURE || state == GRPC_CHANNEL_SHUTDOWN ||
        !channel->WaitForStateChange(state, deadline)) {
      return connection_failure(globals, channel);
    }
    state = channel->GetState(true);
  }
  return channel;
}

Call::Call(const Globals& globals) : globals_(globals) {
  if (const std::string& token = globals.credentials.token; !token.empty()) {
    context_.AddMetadata("authorization", "Bearer " + token);
  }
  if (globals.timeout_seconds > 0) {
    const auto timeout = std::chrono::duration_cast<std::chrono::system_clock::duration>(
        std::chrono::duration<double>(globals.timeout_seconds));
    context_.set_deadline(std::chrono::system_clock::now() + timeout);
  }
  const std::lock_guard lock(interrupt_mutex);
  cancellable.insert(&context_);
  if (std::exchange(cancel_next, false)) context_.TryCancel();
}

Call::~Call() {
  const std::lock_guard lock(interrupt_mutex);
  cancellable.erase(&context_);
}

bool Call::interrupted() const {
  const std::lock_guard lock(interrupt_mutex);
  return was_interrupted;
}

absl::Status Call::result(const grpc::Status& status) const {
  if (status.ok()) return absl::OkStatus();
  if (interrupted()) return absl::CancelledError("interrupted");
  const bool from_server = !status.error_details().empty();
  if (status.error_code() == grpc::StatusCode::DEADLINE_EXCEEDED && globals_.timeout_seconds > 0) {
    return absl::DeadlineExceededError(
        fmt::format("not done within {:g} s (--timeout)", globals_.timeout_seconds));
  }
  if (status.error_code() == grpc::StatusCode::UNAVAILABLE && !from_server) {
    return absl::UnavailableError(
        fmt::format("lost the server at {}: {}", globals_.server, status.error_message()));
  }
  const absl::Status failure = from_grpc(status);
  if (!absl::IsUnauthenticated(failure)) return failure;
  return absl::UnauthenticatedError(
      fmt::format("{} (--token-file FILE, or the token itself in KASCADE_TOKEN)",
                  std::string(failure.message())));
}

}  // namespace kascade::client
