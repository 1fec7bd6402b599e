// The control groups that limit this process, such as those of its container.
#ifndef KASCADE_ENGINE_BASE_CONTROL_GROUPS_H_
#define KASCADE_ENGINE_BASE_CONTROL_GROUPS_H_

#include <filesystem>
#include <string_view>
#include <vector>

namespace kascade {

struct ControlGroup {
  std::filesystem::path directory{};
  bool version2 = false;  // the files of versions 1 and 2 differ
};

// The groups of this process and those around them, up to the mounts, as far as one of their
// directories could limit `controller` ("cpu", "memory"). Inside a container the path of a group
// may be the host's, so that some directories need not exist. `mounts` is the directory under which
// control groups are mounted (/sys/fs/cgroup), `membership` the file that lists those of the
// process (/proc/self/cgroup).
std::vector<ControlGroup> control_groups(std::string_view controller,
                                         const std::filesystem::path& mounts,
                                         const std::filesystem::path& membership);

}  // namespace kascade

#endif  // KASCADE_ENGINE_BASE_CONTROL_GROUPS_H_
