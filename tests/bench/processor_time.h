// How much of the processors' time others took while something was measured.
#ifndef KASCADE_TESTS_BENCH_PROCESSOR_TIME_H_
#define KASCADE_TESTS_BENCH_PROCESSOR_TIME_H_

#include <cstdint>
#include <optional>
#include <string>

namespace kascade::bench {

// What durations are measured by. On a busy machine the calling thread's own processor time, which
// does not count waiting for a processor, is the better figure; it sees one thread only.
enum class Clock { kWall, kThread };
double seconds_now(Clock clock);

// The first line of /proc/stat.
struct BusyTicks {
  int64_t busy = 0;    // user, nice, system, interrupts
  int64_t stolen = 0;  // run by the host instead of this machine
};
std::optional<BusyTicks> parse_proc_stat(const std::string& text);

// A moment's counters; differences of two are what means something.
struct ProcessorTime {
  double wall_seconds = 0;
  double busy_seconds = 0;  // of all processors, stolen time included
  double own_seconds = 0;   // of this process
};
// Busy time is counted in ticks (10 ms as a rule): spans below 0.2 s say little. Without
// /proc/stat nobody else is busy.
ProcessorTime processor_time_now();

// Time of others ÷ time of all `processors` between two moments, [0, 1].
double foreign_share(const ProcessorTime& before, const ProcessorTime& after, int32_t processors);

int32_t online_processors();

}  // namespace kascade::bench

#endif  // KASCADE_TESTS_BENCH_PROCESSOR_TIME_H_
