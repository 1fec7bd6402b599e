#include "tools/terminal/standard_output.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

namespace kascade::client {
namespace {

bool output_was_closed = false;

bool is_closed(int descriptor) { return fcntl(descriptor, F_GETFD) < 0 && errno == EBADF; }

}  // namespace

void keep_standard_streams() {
  // open() takes the lowest number that is free, which is the one that was found closed.
  if (is_closed(STDIN_FILENO)) (void)open("/dev/null", O_RDONLY);
  output_was_closed = is_closed(STDOUT_FILENO);
  // Every write to /dev/full fails.
  if (output_was_closed) (void)open("/dev/full", O_WRONLY);
  if (is_closed(STDERR_FILENO)) (void)open("/dev/null", O_WRONLY);
}

bool finish_standard_output(const char* program) {
  const bool failed_before = std::ferror(stdout) != 0;
  errno = 0;
  const bool flushed = std::fflush(stdout) == 0;
  if (flushed && !failed_before) return true;
  const char* reason = errno != 0 ? std::strerror(errno) : "it could not be written";
  if (output_was_closed) reason = "it is closed";
  std::fprintf(stderr, "%s: DATA_LOSS: standard output: %s\n", program, reason);
  return false;
}

}  // namespace kascade::client
