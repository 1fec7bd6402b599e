// How the server is: ready for requests, and alive. Told by the standard health service of gRPC and
// by the HTTP listener.
#ifndef KASCADE_SERVER_GRPC_HEALTH_H_
#define KASCADE_SERVER_GRPC_HEALTH_H_

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>

#include "engine/engine.h"
#include "grpcpp/health_check_service_interface.h"
#include "server/core/stall_watch.h"
#include "server/net/acceptor.h"

namespace kascade::server {

// The service name of the health service that tells whether the server is alive. The empty name and
// the names of our services tell whether it is ready.
inline constexpr char kLiveness[] = "liveness";

class Health {
 public:
  // The server is not alive while the engine has work but made no progress for `patience`; zero:
  // it always is. `engine` must outlive the object.
  Health(const Engine& engine, std::chrono::seconds patience);
  Health(const Health&) = delete;
  Health& operator=(const Health&) = delete;
  ~Health();

  // Says "ready", and looks after the engine and the accept loop every second until stop(). Both
  // references must live until then.
  void start(grpc::HealthCheckServiceInterface& service, const net::Acceptor& acceptor);
  // Says "not ready" from now on. Whether the server is alive does not depend on that.
  void set_unready();
  void stop();  // idempotent

  bool ready() const { return ready_; }
  bool live() const { return live_; }
  bool stalled() const { return stalled_; }  // one of the reasons for not being live

 private:
  void set_ready(bool ready);
  void run();
  void look();

  const Engine& engine_;
  core::StallWatch stalls_;  // used by the thread only
  grpc::HealthCheckServiceInterface* service_ = nullptr;
  const net::Acceptor* acceptor_ = nullptr;
  std::atomic<bool> ready_ = false;
  std::atomic<bool> live_ = true;
  std::atomic<bool> stalled_ = false;
  std::mutex mutex_;
  std::condition_variable wake_;
  bool stopping_ = false;  // guarded by mutex_
  std::thread thread_;
};

}  // namespace kascade::server

#endif  // KASCADE_SERVER_GRPC_HEALTH_H_
