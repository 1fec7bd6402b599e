#include "engine/backend/cpu/cores.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <sstream>
#include <string_view>

namespace kascade::cpu {
namespace {

using std::filesystem::path;

std::optional<double> ratio(double quota, double period) {
  if (!(quota > 0) || !(period > 0)) return std::nullopt;
  return quota / period;
}

std::string text_of(const path& file) {
  std::ifstream in(file);
  std::string line;
  std::getline(in, line);
  return line;
}

void keep_least(const std::optional<double>& quota, std::optional<double>& least) {
  if (quota) least = std::min(*quota, least.value_or(*quota));
}

// One line of /proc/self/cgroup: "ID:CONTROLLERS:PATH"; no controllers means version 2.
struct Group {
  std::string controllers{};
  path inside{};  // path of the group, relative to the mount
};

std::optional<Group> parse(const std::string& line) {
  const size_t first = line.find(':');
  const size_t second = first == std::string::npos ? first : line.find(':', first + 1);
  if (second == std::string::npos) return std::nullopt;
  return Group{line.substr(first + 1, second - first - 1),
               path(line.substr(second + 1)).relative_path()};
}

bool lists_cpu(const std::string& controllers) {
  std::istringstream in(controllers);
  for (std::string name; std::getline(in, name, ',');) {
    if (name == "cpu") return true;
  }
  return false;
}

// Lowers `least` to the smallest quota of the group and its ancestors up to the mount. Inside a
// container the path may be the host's, so that some of its directories do not exist below the
// mount; those that exist count.
void keep_least_of_group(const path& mount, const path& inside, bool version2,
                         std::optional<double>& least) {
  path group = mount;
  const auto keep = [&] {
    keep_least(version2 ? quota_of(text_of(group / "cpu.max"))
                        : quota_of(text_of(group / "cpu.cfs_quota_us"),
                                   text_of(group / "cpu.cfs_period_us")),
               least);
  };
  keep();
  for (const path& part : inside) {
    group /= part;
    keep();
  }
}

}  // namespace

std::optional<double> quota_of(const std::string& cpu_max) {
  std::istringstream in(cpu_max);
  double quota = 0, period = 0;
  if (!(in >> quota >> period)) return std::nullopt;  // "max" means no limit
  return ratio(quota, period);
}

std::optional<double> quota_of(const std::string& quota_us, const std::string& period_us) {
  return quota_of(quota_us + " " + period_us);  // a quota of -1 means no limit
}

std::optional<double> quota_under(const path& mounts, const path& membership) {
  std::optional<double> least;
  std::ifstream in(membership);
  for (std::string line; std::getline(in, line);) {
    const auto group = parse(line);
    if (!group) continue;
    if (group->controllers.empty()) {
      keep_least_of_group(mounts, group->inside, /*version2=*/true, least);
    } else if (lists_cpu(group->controllers)) {
      // "cpu" is a link to where "cpu,cpuacct" is mounted.
      keep_least_of_group(mounts / "cpu", group->inside, /*version2=*/false, least);
    }
  }
  return least;
}

int32_t usable_cores(int32_t allowed) {
  const auto quota = quota_under("/sys/fs/cgroup", "/proc/self/cgroup");
  const double cores = std::min<double>(allowed, std::ceil(quota.value_or(allowed)));
  return std::max(1, static_cast<int32_t>(cores));
}

std::string processor_name(const path& cpuinfo) {
  std::ifstream in(cpuinfo);
  for (std::string line; std::getline(in, line);) {
    const size_t colon = line.find(": ");
    if (line.starts_with("model name") && colon != std::string::npos) return line.substr(colon + 2);
  }
  return "";
}

}  // namespace kascade::cpu
