// The memory that this process may still take: of the machine, and of its control groups.
#ifndef KASCADE_ENGINE_RUNTIME_FREE_MEMORY_H_
#define KASCADE_ENGINE_RUNTIME_FREE_MEMORY_H_

#include <cstdint>
#include <filesystem>
#include <string>

namespace kascade {

// Where the operating system tells.
struct MemoryFiles {
  std::filesystem::path meminfo = "/proc/meminfo";
  std::filesystem::path mounts = "/sys/fs/cgroup";         // of control groups
  std::filesystem::path membership = "/proc/self/cgroup";  // the groups of this process
};

struct FreeMemory {
  int64_t bytes = 0;  // ≥ 0
  std::string
      source{};  // what leaves no more, for messages: the machine, or a control group's path
};

// The least of what the machine and each control group of this process leave. Memory that holds
// pages of files counts as free, since the operating system gives it up. Where nothing can be read,
// 4 GiB are assumed.
FreeMemory free_memory(const MemoryFiles& files = {});

}  // namespace kascade

#endif  // KASCADE_ENGINE_RUNTIME_FREE_MEMORY_H_
