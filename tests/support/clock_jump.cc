// A library to preload: the wall clock of the process is ahead of the machine's by as many seconds
// as the 8 bytes of the file KASCADE_CLOCK_OFFSET say (a signed number of this machine's byte
// order), so that a test can set the clock of a running server.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <ctime>

namespace {

int64_t seconds_ahead() {
  static const std::atomic<int64_t>* const shared = [] {
    const char* const path = std::getenv("KASCADE_CLOCK_OFFSET");
    const int file = path == nullptr ? -1 : open(path, O_RDONLY | O_CLOEXEC);
    void* memory =
        file < 0 ? MAP_FAILED : mmap(nullptr, sizeof(int64_t), PROT_READ, MAP_SHARED, file, 0);
    if (file >= 0) close(file);
    return memory == MAP_FAILED ? nullptr : static_cast<const std::atomic<int64_t>*>(memory);
  }();
  return shared == nullptr ? 0 : shared->load();
}

}  // namespace

extern "C" int clock_gettime(clockid_t clock, timespec* out) {
  const int result = static_cast<int>(syscall(SYS_clock_gettime, clock, out));
  const bool is_wall_clock = clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE;
  if (result == 0 && is_wall_clock) out->tv_sec += seconds_ahead();
  return result;
}

extern "C" int gettimeofday(timeval* out, void*) {
  timespec now{};
  const int result = clock_gettime(CLOCK_REALTIME, &now);
  *out = {.tv_sec = now.tv_sec, .tv_usec = now.tv_nsec / 1000};
  return result;
}

extern "C" time_t time(time_t* out) {
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  if (out != nullptr) *out = now.tv_sec;
  return now.tv_sec;
}
