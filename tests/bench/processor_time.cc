#include "tests/bench/processor_time.h"

#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <fstream>
#include <sstream>

namespace kascade::bench {
namespace {

double seconds_of(const timeval& time) {
  return static_cast<double>(time.tv_sec) + 1e-6 * static_cast<double>(time.tv_usec);
}

}  // namespace

double seconds_now(Clock clock) {
  timespec time{};
  clock_gettime(clock == Clock::kWall ? CLOCK_MONOTONIC : CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

std::optional<BusyTicks> parse_proc_stat(const std::string& text) {
  std::istringstream line(text);
  std::string name;
  enum { kUser, kNice, kSystem, kIdle, kWait, kInterrupt, kSoftInterrupt, kStolen, kFields };
  std::array<int64_t, kFields> ticks{};
  line >> name;
  if (name != "cpu") return std::nullopt;
  for (int64_t& field : ticks) {
    if (!(line >> field)) return std::nullopt;
  }
  return BusyTicks{.busy = ticks[kUser] + ticks[kNice] + ticks[kSystem] + ticks[kInterrupt] +
                           ticks[kSoftInterrupt],
                   .stolen = ticks[kStolen]};
}

ProcessorTime processor_time_now() {
  ProcessorTime time;
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  time.own_seconds = seconds_of(usage.ru_utime) + seconds_of(usage.ru_stime);
  std::ifstream file("/proc/stat");
  std::string line;
  std::getline(file, line);
  if (const auto ticks = parse_proc_stat(line)) {
    time.busy_seconds = static_cast<double>(ticks->busy + ticks->stolen) /
                        static_cast<double>(sysconf(_SC_CLK_TCK));
  }
  time.wall_seconds = seconds_now(Clock::kWall);
  return time;
}

double foreign_share(const ProcessorTime& before, const ProcessorTime& after, int32_t processors) {
  const double all = (after.wall_seconds - before.wall_seconds) * processors;
  if (all <= 0) return 0;
  const double busy = after.busy_seconds - before.busy_seconds;
  const double own = after.own_seconds - before.own_seconds;
  return std::clamp((busy - own) / all, 0.0, 1.0);
}

int32_t online_processors() {
  return static_cast<int32_t>(std::max(1L, sysconf(_SC_NPROCESSORS_ONLN)));
}

}  // namespace kascade::bench
