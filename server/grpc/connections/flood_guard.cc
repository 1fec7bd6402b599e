#include "server/grpc/connections/flood_guard.h"

#include <malloc.h>

#include <chrono>
#include <string>
#include <utility>

#include "spdlog/spdlog.h"

namespace kascade::server {
namespace {

constexpr auto kTick = std::chrono::milliseconds(100);
// Looking at thousands of connections takes milliseconds, so it is done this often only while one
// of them sends much.
constexpr auto kTickUnderLoad = std::chrono::milliseconds(20);
constexpr int64_t kMuchInATick = 256 << 10;
// A thousand streams need more than this.
constexpr int64_t kBytesToLookAt = 16 << 10;
constexpr size_t kMostWatched = 20'000;  // connections, also some that have ended

// Of all threads, also in large blocks. 0 where another allocator has replaced that of glibc.
int64_t allocated_bytes() {
  const struct mallinfo2 info = mallinfo2();
  return static_cast<int64_t>(info.uordblks + info.hblkhd);
}

}  // namespace

FloodGuard::FloodGuard(net::Connections& connections, const StreamLimits& limits,
                       std::function<int64_t()> accounted_bytes)
    : connections_(connections),
      limits_(limits),
      accounted_bytes_(std::move(accounted_bytes)),
      thread_([this] { run(); }) {}

FloodGuard::~FloodGuard() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_all();
  thread_.join();
}

void FloodGuard::run() {
  std::unique_lock lock(mutex_);
  std::chrono::milliseconds tick = kTick;
  while (!wake_.wait_for(lock, tick, [this] { return stopping_; })) {
    lock.unlock();
    tick = look() ? kTickUnderLoad : kTick;
    lock.lock();
  }
}

bool FloodGuard::look() {
  if (watched_.size() > kMostWatched) watched_.clear();
  bool much = false;
  const auto connections = connections_.with_traffic(kBytesToLookAt);
  const int64_t allocated = connections.empty() ? 0 : allocated_bytes() - accounted_bytes_();
  for (const net::Connections::Traffic& traffic : connections) {
    much = much || traffic.new_bytes >= kMuchInATick;
    auto counted = sockets_.count(traffic.name);
    if (!counted) continue;
    counted->counts.bytes = traffic.bytes;
    counted->counts.allocated = allocated;
    const auto reason = budget_of(traffic.name, counted->socket)
                            .observe(counted->counts, std::chrono::steady_clock::now());
    if (!reason) continue;
    const SocketCounts& counts = counted->counts;
    spdlog::warn(
        "the connection from {} is cut off: {} streams, of which {} were answered and {} "
        "failed, and {} messages in {} bytes",
        traffic.name, counts.started, counts.succeeded, counts.failed, counts.messages,
        counts.bytes);
    connections_.abort(traffic, *reason);
    watched_.erase(traffic.name);
  }
  return much;
}

StreamBudget& FloodGuard::budget_of(const std::string& name, int64_t socket) {
  const auto known = watched_.find(name);
  if (known != watched_.end() && known->second.socket != socket) watched_.erase(known);
  return watched_.try_emplace(name, socket, StreamBudget(limits_)).first->second.budget;
}

}  // namespace kascade::server
