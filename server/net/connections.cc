#include "server/net/connections.h"

// Of the kernel, as the C library knows fewer fields of tcp_info.
#include <linux/tcp.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <utility>

namespace kascade::net {
namespace {

// What the operating system knows of a TCP connection; nothing of other sockets.
std::optional<tcp_info> tcp_info_of(const Socket& socket) {
  tcp_info info{};
  socklen_t bytes = sizeof(info);
  if (getsockopt(socket.get(), IPPROTO_TCP, TCP_INFO, &info, &bytes) != 0) return std::nullopt;
  return info;
}

// Unlike shutdown(), this also discards what has come and nobody has read yet.
void disconnect(const Socket& socket) {
  sockaddr nobody{};
  nobody.sa_family = AF_UNSPEC;
  connect(socket.get(), &nobody, sizeof(nobody));
}

}  // namespace

std::string_view name_of(RefusalReason reason) {
  static constexpr std::array<std::string_view, kRefusalReasons> kNames = {
      "max_connections", "max_connections_per_peer", "descriptors"};
  return kNames[static_cast<size_t>(reason)];
}

std::string_view name_of(ClosureReason reason) {
  static constexpr std::array<std::string_view, kClosureReasons> kNames = {"idle", "streams",
                                                                           "data"};
  return kNames[static_cast<size_t>(reason)];
}

std::optional<RefusalReason> Connections::make_room(const std::string& host, Time now) {
  const std::lock_guard lock(mutex_);
  const auto found = hosts_.find(host);
  const bool counted = limits_.per_host > 0 && !host.empty() && found != hosts_.end();
  if (counted && found->second.connections >= limits_.per_host) {
    if (close_longest_idle(found->second.idle, now)) return std::nullopt;
    return RefusalReason::kMaxConnectionsPerPeer;
  }
  if (counts_.open < limits_.connections || close_longest_idle(idle_, now)) return std::nullopt;
  return RefusalReason::kMaxConnections;
}

void Connections::add(Socket duplicate, Peer peer, Time now) {
  const std::lock_guard lock(mutex_);
  const int descriptor = duplicate.get();
  auto connection = std::make_shared<Connection>(
      Connection{.duplicate = std::move(duplicate), .peer = std::move(peer), .idle_since = now});
  ++counts_.accepted;
  ++counts_.open;
  ++hosts_[connection->peer.host].connections;
  enter_idle(*connection);
  if (!connection->peer.name.empty()) by_name_[connection->peer.name] = connection;
  connections_[descriptor] = std::move(connection);
}

void Connections::remove(int duplicate) {
  const std::lock_guard lock(mutex_);
  const auto found = connections_.find(duplicate);
  if (found == connections_.end()) return;
  const Handle connection = found->second;
  connections_.erase(found);
  if (connection->open) forget(*connection);
  connection->open = false;
  connection->duplicate = Socket();  // also where a call still holds the connection
}

void Connections::refuse(RefusalReason reason) {
  const std::lock_guard lock(mutex_);
  ++counts_.refused[static_cast<size_t>(reason)];
}

Connections::Handle Connections::begin_call(std::string_view name) {
  const std::lock_guard lock(mutex_);
  const auto found = by_name_.find(name);
  if (found == by_name_.end()) return nullptr;
  Handle connection = found->second;
  if (connection->calls++ == 0) leave_idle(*connection);
  return connection;
}

void Connections::end_call(const Handle& connection, Time now) {
  const std::lock_guard lock(mutex_);
  if (--connection->calls > 0 || !connection->open) return;
  connection->idle_since = now;
  enter_idle(*connection);
}

std::vector<Connections::Traffic> Connections::with_traffic(int64_t bytes) {
  const std::lock_guard lock(mutex_);
  std::vector<Traffic> found;
  for (const auto& [name, connection] : by_name_) {
    const auto info = tcp_info_of(connection->duplicate);
    const auto received = static_cast<int64_t>(info ? info->tcpi_bytes_received : 0);
    const int64_t since = received - connection->bytes_reported;
    if (since < bytes) continue;
    connection->bytes_reported = received;
    found.push_back({.duplicate = connection->duplicate.get(),
                     .name = name,
                     .bytes = received,
                     .new_bytes = since});
  }
  return found;
}

void Connections::abort(const Traffic& traffic, ClosureReason reason) {
  const std::lock_guard lock(mutex_);
  const auto found = by_name_.find(traffic.name);
  if (found == by_name_.end() || found->second->duplicate.get() != traffic.duplicate) return;
  const Handle connection = found->second;
  close(*connection, reason);
}

ConnectionCounts Connections::counts() const {
  const std::lock_guard lock(mutex_);
  return counts_;
}

void Connections::enter_idle(const Connection& connection) {
  const Idle::value_type key{connection.idle_since, connection.duplicate.get()};
  // gRPC names all clients of a unix socket alike, so whether these have calls is not known.
  if (connection.peer.name.empty()) return;
  idle_.insert(key);
  hosts_[connection.peer.host].idle.insert(key);
}

void Connections::leave_idle(const Connection& connection) {
  const Idle::value_type key{connection.idle_since, connection.duplicate.get()};
  idle_.erase(key);
  hosts_[connection.peer.host].idle.erase(key);
}

bool Connections::close_longest_idle(const Idle& idle, Time now) {
  while (!idle.empty()) {
    const auto [since, descriptor] = *idle.begin();
    Connection& connection = *connections_.at(descriptor);
    // gRPC shows a call only when its message has arrived; what a connection sends meanwhile shows
    // that it is in use.
    const auto info = tcp_info_of(connection.duplicate);
    const std::chrono::milliseconds silent(info ? info->tcpi_last_data_recv : 0);
    if (!info || now - silent <= since) {
      close(connection, ClosureReason::kIdle);
      return true;
    }
    leave_idle(connection);
    connection.idle_since = now - silent;
    enter_idle(connection);
  }
  return false;
}

void Connections::close(Connection& connection, ClosureReason reason) {
  if (!connection.open) return;
  ++counts_.closed[static_cast<size_t>(reason)];
  forget(connection);
  connection.open = false;
  if (reason == ClosureReason::kIdle) {
    shutdown(connection.duplicate.get(), SHUT_RDWR);
  } else {
    disconnect(connection.duplicate);
  }
}

void Connections::forget(const Connection& connection) {
  --counts_.open;
  leave_idle(connection);
  const auto host = hosts_.find(connection.peer.host);
  if (--host->second.connections == 0) hosts_.erase(host);
  const auto named = by_name_.find(connection.peer.name);
  if (named != by_name_.end() && named->second.get() == &connection) by_name_.erase(named);
}

}  // namespace kascade::net
