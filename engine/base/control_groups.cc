#include "engine/base/control_groups.h"

#include <fstream>
#include <optional>
#include <sstream>
#include <string>

namespace kascade {
namespace {

using std::filesystem::path;

// One line of /proc/self/cgroup: "ID:CONTROLLERS:PATH"; no controllers means version 2.
struct Membership {
  std::string controllers{};
  path inside{};  // path of the group, relative to the mount
};

std::optional<Membership> parse(const std::string& line) {
  const size_t first = line.find(':');
  const size_t second = first == std::string::npos ? first : line.find(':', first + 1);
  if (second == std::string::npos) return std::nullopt;
  return Membership{line.substr(first + 1, second - first - 1),
                    path(line.substr(second + 1)).relative_path()};
}

bool lists(const std::string& controllers, std::string_view controller) {
  std::istringstream in(controllers);
  for (std::string name; std::getline(in, name, ',');) {
    if (name == controller) return true;
  }
  return false;
}

}  // namespace

std::vector<ControlGroup> control_groups(std::string_view controller, const path& mounts,
                                         const path& membership) {
  std::vector<ControlGroup> groups;
  std::ifstream in(membership);
  for (std::string line; std::getline(in, line);) {
    const auto member = parse(line);
    if (!member) continue;
    const bool version2 = member->controllers.empty();
    if (!version2 && !lists(member->controllers, controller)) continue;
    // Version 1 has a mount for each controller; "cpu" is a link to where "cpu,cpuacct" is mounted.
    path directory = version2 ? mounts : mounts / controller;
    groups.push_back({directory, version2});
    for (const path& part : member->inside) {
      directory /= part;
      groups.push_back({directory, version2});
    }
  }
  return groups;
}

}  // namespace kascade
