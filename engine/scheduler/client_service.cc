#include "engine/scheduler/client_service.h"

#include <algorithm>
#include <limits>

#include "engine/base/check.h"

namespace kascade {

void ClientService::enter(const std::string& client) {
  Client& entry = clients_[client];
  if (++entry.sequences > 1) return;
  int64_t least = std::numeric_limits<int64_t>::max();
  for (const auto& [name, other] : clients_) {
    if (&other != &entry && other.sequences > 0) least = std::min(least, other.service);
  }
  if (present_ > 0) entry.service = std::max(entry.service, least);
  ++present_;
}

void ClientService::leave(const std::string& client) {
  const auto found = clients_.find(client);
  KASCADE_CHECK(found != clients_.end() && found->second.sequences > 0);
  if (--found->second.sequences > 0) return;
  --present_;
  forget();
}

// Whoever is away and was served no more than the least served present client would be lifted to it
// anyway. If nobody is present, all begin anew.
void ClientService::forget() {
  int64_t least = std::numeric_limits<int64_t>::max();
  for (const auto& [name, client] : clients_) {
    if (client.sequences > 0) least = std::min(least, client.service);
  }
  std::erase_if(clients_, [least](const auto& entry) {
    return entry.second.sequences == 0 && entry.second.service <= least;
  });
  if (clients_.size() - present_ <= kMostAbsent) return;
  auto victim = clients_.end();
  for (auto it = clients_.begin(); it != clients_.end(); ++it) {
    if (it->second.sequences > 0) continue;
    if (victim == clients_.end() || it->second.service < victim->second.service) victim = it;
  }
  clients_.erase(victim);
}

void ClientService::charge(const std::string& client, int64_t tokens) {
  const auto found = clients_.find(client);
  KASCADE_CHECK(found != clients_.end() && tokens >= 0);
  found->second.service += tokens;
}

int64_t ClientService::service(const std::string& client) const {
  const auto found = clients_.find(client);
  return found == clients_.end() ? 0 : found->second.service;
}

}  // namespace kascade
