#include "client/benchmark/local_server.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <system_error>
#include <thread>

namespace kascade::client {
namespace {

namespace fs = std::filesystem;

constexpr std::chrono::milliseconds kPoll{20};

bool is_program(const fs::path& path) { return ::access(path.c_str(), X_OK) == 0; }

// The program beside this one: as they are installed, or as they are built.
std::string server_program(const fs::path& wanted) {
  if (!wanted.empty()) return wanted.string();
  std::error_code error;
  const fs::path here = fs::read_symlink("/proc/self/exe", error).parent_path();
  for (const fs::path& path :
       {here / "kascade-server", here.parent_path() / "server" / "kascade-server"}) {
    if (!error && is_program(path)) return path.string();
  }
  return "kascade-server";  // execvp searches PATH
}

// In the new process, between fork and exec: only calls that are safe after a fork.
[[noreturn]] void become(char* const* arguments, int log, pid_t parent) {
  ::prctl(PR_SET_PDEATHSIG, SIGTERM);
  if (::getppid() != parent) ::_exit(127);  // it died before the request above
  ::setpgid(0, 0);                          // Ctrl-C is for the command, which then ends the server
  sigset_t none;
  ::sigemptyset(&none);
  ::pthread_sigmask(SIG_SETMASK, &none, nullptr);
  ::dup2(log, STDOUT_FILENO);
  ::dup2(log, STDERR_FILENO);
  ::execvp(arguments[0], arguments);
  ::dprintf(STDERR_FILENO, "cannot start %s: %s\n", arguments[0], std::strerror(errno));
  ::_exit(127);
}

absl::StatusOr<fs::path> temporary_folder() {
  std::string path = (fs::temp_directory_path() / "kascade-XXXXXX").string();
  if (::mkdtemp(path.data()) != nullptr) return path;
  return absl::UnavailableError(fmt::format("cannot make {}: {}", path, std::strerror(errno)));
}

}  // namespace

absl::StatusOr<std::unique_ptr<LocalServer>> LocalServer::start(const LocalServerOptions& options) {
  auto folder = temporary_folder();
  if (!folder.ok()) return folder.status();
  std::unique_ptr<LocalServer> server(new LocalServer);
  server->folder_ = *std::move(folder);
  std::vector<std::string> words = {server_program(options.program),
                                    "--model",
                                    options.model.string(),
                                    "--listen",
                                    "127.0.0.1:0",
                                    "--metrics-listen",
                                    "",
                                    "--port-file",
                                    server->folder_ / "port"};
  words.insert(words.end(), options.arguments.begin(), options.arguments.end());
  std::vector<char*> arguments;
  for (std::string& word : words) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  const int log = ::open((server->folder_ / "log").c_str(), O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
  if (log < 0) return absl::UnavailableError("cannot write the server's log");
  const pid_t parent = ::getpid();
  server->process_ = ::fork();
  if (server->process_ == 0) become(arguments.data(), log, parent);
  ::close(log);
  if (server->process_ < 0) {
    return absl::UnavailableError(fmt::format("cannot start a process: {}", std::strerror(errno)));
  }
  if (auto status = server->wait_until_it_serves(); !status.ok()) return status;
  return server;
}

LocalServer::~LocalServer() {
  if (process_ > 0) {
    ::kill(process_, SIGTERM);
    ::waitpid(process_, nullptr, 0);
  }
  std::error_code ignored;
  if (!folder_.empty()) fs::remove_all(folder_, ignored);
}

absl::Status LocalServer::wait_until_it_serves() {
  std::error_code error;
  while (!fs::exists(folder_ / "port", error)) {
    if (ended()) {
      return absl::FailedPreconditionError("the server did not start: " + last_log_line());
    }
    std::this_thread::sleep_for(kPoll);
  }
  std::ifstream file(folder_ / "port");
  std::string port;
  std::getline(file, port);
  address_ = "127.0.0.1:" + port;
  return absl::OkStatus();
}

bool LocalServer::ended() {
  if (::waitpid(process_, nullptr, WNOHANG) == 0) return false;
  process_ = -1;
  return true;
}

std::string LocalServer::last_log_line() const {
  std::ifstream log(folder_ / "log");
  std::string last = "it wrote no message";
  for (std::string line; std::getline(log, line);) {
    if (!line.empty()) last = line;
  }
  return last;
}

}  // namespace kascade::client
