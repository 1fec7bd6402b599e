// A kascade-server that a command starts for its own time.
#ifndef KASCADE_CLIENT_BENCHMARK_LOCAL_SERVER_H_
#define KASCADE_CLIENT_BENCHMARK_LOCAL_SERVER_H_

#include <sys/types.h>

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace kascade::client {

struct LocalServerOptions {
  std::filesystem::path program{};       // empty: beside this program, or on PATH
  std::filesystem::path model{};         // folder of the checkpoint
  std::vector<std::string> arguments{};  // further ones
};

class LocalServer {
 public:
  // Starts the server on a free port of 127.0.0.1, without metrics, and waits until it serves.
  // Errors: NOT_FOUND without the program; FAILED_PRECONDITION with the server's own message where
  // it ended before it served.
  static absl::StatusOr<std::unique_ptr<LocalServer>> start(const LocalServerOptions& options);
  // Ends the server and waits for its end. The server also ends when this process does.
  ~LocalServer();
  LocalServer(const LocalServer&) = delete;
  LocalServer& operator=(const LocalServer&) = delete;

  const std::string& address() const { return address_; }  // HOST:PORT

 private:
  LocalServer() = default;
  absl::Status wait_until_it_serves();
  bool ended();  // whether the process is gone
  std::string last_log_line() const;

  std::filesystem::path folder_{};  // temporary: port file and log
  pid_t process_ = -1;
  std::string address_{};
};

}  // namespace kascade::client

#endif  // KASCADE_CLIENT_BENCHMARK_LOCAL_SERVER_H_
