// The number of cores that this process may use. A container often sees all cores of the machine
// but has a quota on their time; with more threads than the quota allows, the threads would wait
// for each other.
#ifndef KASCADE_ENGINE_BACKEND_CPU_CORES_H_
#define KASCADE_ENGINE_BACKEND_CPU_CORES_H_

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

namespace kascade::cpu {

// The number of cores that a quota stands for, from the text of cgroup v2's cpu.max ("200000
// 100000") or of cgroup v1's cpu.cfs_quota_us and cpu.cfs_period_us. Unset if there is no limit or
// the text has another form.
std::optional<double> quota_of(const std::string& cpu_max);
std::optional<double> quota_of(const std::string& quota_us, const std::string& period_us);

// The smallest quota among this process's control groups and their ancestors. `mounts` is the
// directory under which control groups are mounted (/sys/fs/cgroup), `membership` the file that
// lists those of the process (/proc/self/cgroup).
std::optional<double> quota_under(const std::filesystem::path& mounts,
                                  const std::filesystem::path& membership);

// The number of cores to use. It is `allowed`, the number of cores that the operating system may
// run this process on, or the quota of its control groups, rounded up, if that is less. At least 1.
int32_t usable_cores(int32_t allowed);

// What the first processor in the text of /proc/cpuinfo calls itself; empty if it does not tell.
std::string processor_name(const std::filesystem::path& cpuinfo);

}  // namespace kascade::cpu

#endif  // KASCADE_ENGINE_BACKEND_CPU_CORES_H_
