// The CPUs that the threads of this process may run on, and binding a thread to one of them.
#ifndef KASCADE_ENGINE_BACKEND_CPU_AFFINITY_H_
#define KASCADE_ENGINE_BACKEND_CPU_AFFINITY_H_

#include <pthread.h>

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace kascade {

// The numbers of the CPUs that the calling thread may run on, ascending.
absl::StatusOr<std::vector<int32_t>> allowed_cpus();

// Binds `thread` to `cpu`. An error names the CPU.
absl::Status bind_thread(pthread_t thread, int32_t cpu);

}  // namespace kascade

#endif  // KASCADE_ENGINE_BACKEND_CPU_AFFINITY_H_
