// How many tokens the clients of one class of work were served, so that the next sequence to start
// can come from the client that was served least. It has no clock: a client that was away is lifted
// to the least served of the others, and so cannot save up service while it asks for none.
#ifndef KASCADE_ENGINE_SCHEDULER_CLIENT_SERVICE_H_
#define KASCADE_ENGINE_SCHEDULER_CLIENT_SERVICE_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>

namespace kascade {

class ClientService {
 public:
  // Most clients without a sequence that are remembered; the least served are forgotten first.
  static constexpr size_t kMostAbsent = 1024;

  // A sequence of `client` was admitted, or is gone. Each enter() has one leave().
  void enter(const std::string& client);
  void leave(const std::string& client);
  // Adds tokens to the service of a client that has sequences.
  void charge(const std::string& client, int64_t tokens);
  // The tokens that the client is accounted for; 0 if it is unknown.
  int64_t service(const std::string& client) const;
  size_t remembered() const { return clients_.size(); }

 private:
  struct Client {
    int64_t service = 0;
    int32_t sequences = 0;
  };

  void forget();

  std::map<std::string, Client> clients_;
  size_t present_ = 0;  // clients with sequences
};

}  // namespace kascade

#endif  // KASCADE_ENGINE_SCHEDULER_CLIENT_SERVICE_H_
