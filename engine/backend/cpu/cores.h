// How many cores this process may use: a container often sees all of the machine's cores and may
// use only some of their time, and more threads than that wait for each other.
#ifndef KASCADE_ENGINE_BACKEND_CPU_CORES_H_
#define KASCADE_ENGINE_BACKEND_CPU_CORES_H_

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

namespace kascade::cpu {

// Cores' worth of time by the texts of cgroup v2's cpu.max ("200000 100000"), or of cgroup v1's
// cpu.cfs_quota_us and cpu.cfs_period_us; nothing when there is no limit or the text is another.
std::optional<double> quota_of(const std::string& cpu_max);
std::optional<double> quota_of(const std::string& quota_us, const std::string& period_us);

// The least quota of this process's control groups and all that they lie in. `mounts` is where they
// are mounted (/sys/fs/cgroup), `membership` the file that names them (/proc/self/cgroup).
std::optional<double> quota_under(const std::filesystem::path& mounts,
                                  const std::filesystem::path& membership);

// `allowed`, the cores that the scheduler may put this process on, or the quota of its control
// groups, rounded up, if that is less; at least 1.
int32_t usable_cores(int32_t allowed);

}  // namespace kascade::cpu

#endif  // KASCADE_ENGINE_BACKEND_CPU_CORES_H_
