#include "engine/backend/cpu/cores.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <sstream>

#include "engine/base/control_groups.h"

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
  for (const auto& [group, version2] : control_groups("cpu", mounts, membership)) {
    keep_least(version2 ? quota_of(text_of(group / "cpu.max"))
                        : quota_of(text_of(group / "cpu.cfs_quota_us"),
                                   text_of(group / "cpu.cfs_period_us")),
               least);
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
