#include "engine/runtime/free_memory.h"

#include <algorithm>
#include <fstream>
#include <optional>
#include <sstream>

#include "engine/base/control_groups.h"

namespace kascade {
namespace {

using std::filesystem::path;

constexpr int64_t kAssumed = int64_t{4} << 30;

// The number that the file consists of. Unset for "max", which means no limit, and without a file.
std::optional<int64_t> number_in(const path& file) {
  std::ifstream in(file);
  int64_t number = 0;
  return in >> number ? std::optional(number) : std::nullopt;
}

// The number behind `key` in lines of keys and numbers.
std::optional<int64_t> number_of(const path& file, const std::string& key) {
  std::ifstream in(file);
  for (std::string line; std::getline(in, line);) {
    if (!line.starts_with(key)) continue;
    std::istringstream rest(line.substr(key.size()));
    int64_t number = 0;
    return rest >> number ? std::optional(number) : std::nullopt;
  }
  return std::nullopt;
}

// What a group leaves. Pages of files count as used by it, but shared memory, which is among them,
// cannot be given up.
std::optional<int64_t> left_by(const ControlGroup& group) {
  const bool v2 = group.version2;
  const path& folder = group.directory;
  const auto limit = number_in(folder / (v2 ? "memory.max" : "memory.limit_in_bytes"));
  const auto used = number_in(folder / (v2 ? "memory.current" : "memory.usage_in_bytes"));
  if (!limit || !used) return std::nullopt;
  const path statistics = folder / "memory.stat";
  const int64_t files = number_of(statistics, v2 ? "file " : "total_cache ").value_or(0);
  const int64_t shared = number_of(statistics, v2 ? "shmem " : "total_shmem ").value_or(0);
  return std::max<int64_t>(0, *limit - (*used - std::max<int64_t>(0, files - shared)));
}

}  // namespace

FreeMemory free_memory(const MemoryFiles& files) {
  std::optional<FreeMemory> least;
  if (const auto kib = number_of(files.meminfo, "MemAvailable:")) {
    least = FreeMemory{*kib * 1024, "the machine"};
  }
  for (const ControlGroup& group : control_groups("memory", files.mounts, files.membership)) {
    const auto left = left_by(group);
    if (!left || (least && least->bytes <= *left)) continue;
    least = FreeMemory{*left, "the memory limit of " + group.directory.string()};
  }
  return least.value_or(FreeMemory{kAssumed, "an assumption, since the system does not tell"});
}

}  // namespace kascade
