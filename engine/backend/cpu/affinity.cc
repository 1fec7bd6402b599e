#include "engine/backend/cpu/affinity.h"

#include <sched.h>

#include <cerrno>
#include <memory>

#include "absl/strings/str_cat.h"

namespace kascade {
namespace {

// More CPUs than any machine has. The Linux kernel refuses masks that are smaller than its own.
constexpr int32_t kMostCpus = 1 << 16;

struct FreeSet {
  void operator()(cpu_set_t* set) const { CPU_FREE(set); }
};
using CpuSet = std::unique_ptr<cpu_set_t, FreeSet>;

}  // namespace

absl::StatusOr<std::vector<int32_t>> allowed_cpus() {
  const CpuSet set(CPU_ALLOC(kMostCpus));
  const size_t bytes = CPU_ALLOC_SIZE(kMostCpus);
  if (set == nullptr) return absl::ResourceExhaustedError("no memory for a set of CPUs");
  CPU_ZERO_S(bytes, set.get());
  if (sched_getaffinity(0, bytes, set.get()) != 0) {
    return absl::ErrnoToStatus(errno, "cannot tell on which CPUs this process may run");
  }
  std::vector<int32_t> cpus;
  for (int32_t cpu = 0; cpu < kMostCpus; ++cpu) {
    if (CPU_ISSET_S(static_cast<size_t>(cpu), bytes, set.get())) cpus.push_back(cpu);
  }
  return cpus;
}

absl::Status bind_thread(pthread_t thread, int32_t cpu) {
  const CpuSet set(CPU_ALLOC(kMostCpus));
  const size_t bytes = CPU_ALLOC_SIZE(kMostCpus);
  if (set == nullptr) return absl::ResourceExhaustedError("no memory for a set of CPUs");
  CPU_ZERO_S(bytes, set.get());
  CPU_SET_S(static_cast<size_t>(cpu), bytes, set.get());
  const int error = pthread_setaffinity_np(thread, bytes, set.get());
  if (error == 0) return absl::OkStatus();
  return absl::ErrnoToStatus(error, absl::StrCat("cannot bind a thread to CPU ", cpu));
}

}  // namespace kascade
