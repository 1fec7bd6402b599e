#include "tools/terminal/standard_streams.h"

#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <iostream>
#include <system_error>

namespace kascade::client {
namespace {

bool output_was_closed = false;

// A file number that is closed is the lowest free one, so that open() takes it.
void open_if_closed(int number, const char* file, int mode) {
  if (::fcntl(number, F_GETFD) < 0) [[maybe_unused]]
    const int opened = ::open(file, mode);
}

}  // namespace

void open_standard_streams() {
  open_if_closed(STDIN_FILENO, "/dev/null", O_RDONLY);
  output_was_closed = ::fcntl(STDOUT_FILENO, F_GETFD) < 0;
  open_if_closed(STDOUT_FILENO, "/dev/full", O_WRONLY);  // every write to it fails
  open_if_closed(STDERR_FILENO, "/dev/null", O_WRONLY);
  ::signal(SIGPIPE, SIG_IGN);
}

std::string standard_output_error() {
  errno = 0;
  std::cout.flush();
  const bool flushed = std::fflush(stdout) == 0;
  if (flushed && std::ferror(stdout) == 0 && std::cout.good()) return "";
  if (output_was_closed) return "it is closed";
  return errno != 0 ? std::strerror(errno) : "cannot be written to";
}

int run_with_standard_output(const char* program, const std::function<int()>& body) {
  int code = 1;
  std::string lost;
  try {
    code = body();
  } catch (const std::system_error& error) {  // of fmt::print
    lost = error.code().message();
  }
  if (const std::string found = standard_output_error(); lost.empty() || output_was_closed) {
    lost = found;
  }
  if (lost.empty()) return code;
  std::fprintf(stderr, "%s: DATA_LOSS: standard output: %s\n", program, lost.c_str());
  return code == 0 ? 1 : code;
}

}  // namespace kascade::client
