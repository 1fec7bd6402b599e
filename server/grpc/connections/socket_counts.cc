#include "server/grpc/connections/socket_counts.h"

#include <algorithm>
#include <memory>

#include "absl/strings/numbers.h"
#include "grpc/grpc.h"
#include "grpc/support/alloc.h"
#include "nlohmann/json.hpp"
#include "server/net/peer.h"

namespace kascade::server {
namespace {

using Json = nlohmann::json;

constexpr intptr_t kSocketsAtOnce = 1000;
constexpr size_t kMostSockets = 20'000;  // in the table, which also has connections that have ended

// Takes the text that gRPC has allocated; an empty object for none.
Json parsed(char* text) {
  const std::unique_ptr<char, void (*)(void*)> owner(text, gpr_free);
  return text == nullptr ? Json::object() : Json::parse(text, nullptr, /*allow_exceptions=*/false);
}

// gRPC writes 64-bit numbers as strings, and leaves out those that are 0.
int64_t number_in(const Json& object, const char* name) {
  int64_t number = 0;
  const auto found = object.find(name);
  const bool is_text = found != object.end() && found->is_string();
  return is_text && absl::SimpleAtoi(found->get_ref<const std::string&>(), &number) ? number : 0;
}

}  // namespace

std::optional<SocketCounter::Counted> SocketCounter::count(const std::string& name) {
  // A name may have got a new connection. Numbers are told in order, so only new ones are read.
  find_sockets();
  const auto known = sockets_.find(name);
  if (known == sockets_.end()) return std::nullopt;
  const Json answer = parsed(grpc_channelz_get_socket(known->second));
  const Json socket = answer.is_object() ? answer.value("socket", Json::object()) : Json::object();
  if (!socket.contains("data")) {
    sockets_.erase(known);
    return std::nullopt;
  }
  const Json& data = socket.at("data");
  return Counted{.socket = known->second,
                 .counts = {.started = number_in(data, "streamsStarted"),
                            .succeeded = number_in(data, "streamsSucceeded"),
                            .failed = number_in(data, "streamsFailed"),
                            .messages = number_in(data, "messagesReceived")}};
}

void SocketCounter::find_sockets() {
  if (sockets_.size() > kMostSockets) {
    sockets_.clear();
    next_socket_ = 0;
  }
  const Json servers = parsed(grpc_channelz_get_servers(0));
  int64_t next = next_socket_;
  for (const Json& server : servers.value("server", Json::array())) {
    const int64_t server_id = number_in(server.value("ref", Json::object()), "serverId");
    int64_t first = next_socket_;
    bool at_end = false;
    while (!at_end) {
      const Json page = parsed(grpc_channelz_get_server_sockets(server_id, first, kSocketsAtOnce));
      for (const Json& socket : page.value("socketRef", Json::array())) {
        first = number_in(socket, "socketId") + 1;
        // "TRANSPORT PEER"
        const std::string name = socket.value("name", "");
        sockets_[net::peer_name(name.substr(name.find(' ') + 1))] = first - 1;
      }
      at_end = page.value("end", true) || page.value("socketRef", Json::array()).empty();
    }
    next = std::max(next, first);
  }
  next_socket_ = next;
}

}  // namespace kascade::server
