// What the machine can do at best with the threads that the backend uses: multiply-adds per second
// and bytes read per second.
#ifndef KASCADE_TESTS_BENCH_CEILINGS_H_
#define KASCADE_TESTS_BENCH_CEILINGS_H_

#include <cstdint>

#include "engine/backend/cpu/thread_pool.h"
#include "engine/backend/host/host_buffer.h"
#include "engine/backend/tensor.h"
#include "tests/bench/ceiling_loops.h"
#include "tests/bench/processor_time.h"
#include "tests/bench/statistics.h"

namespace kascade::bench {

// Operations per second; 0 where the machine has no such instruction.
struct Ceilings {
  double f32 = 0;
  double bf16 = 0;
  double int8 = 0;
  Summary read;  // bytes per second; some machines change between two speeds within seconds
};

// Owns 1 GiB of memory to read.
class CeilingMeter {
 public:
  CeilingMeter(int32_t threads, Clock clock);  // Clock::kThread: of one thread

  // The best of several short runs of each loop, as if nobody else used the processors, and reads
  // of all the memory.
  Ceilings measure();

  // About 5 ms of the loop: operations per second of all threads, which may have to wait for a
  // processor; 0 without the instruction.
  double operations_per_second(const CeilingLoop& loop);
  // Sums the next part of the memory, far more than caches hold: bytes per second. ~10 ms.
  double read_burst();

 private:
  double undisturbed_operations_per_second(const CeilingLoop& loop);
  double read(int64_t begin, int64_t bytes);

  cpu::ThreadPool pool_;
  Clock clock_;
  HostBuffer memory_;
  int64_t next_ = 0;  // byte where the next burst begins
};

}  // namespace kascade::bench

#endif  // KASCADE_TESTS_BENCH_CEILINGS_H_
