#include "server/net/descriptors.h"

#include <sys/resource.h>

#include <algorithm>
#include <limits>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace kascade::net {
namespace {

constexpr int64_t kDefaultConnections = 4096;
constexpr int64_t kDescriptorsPerConnection = 2;
// 64 connections of the HTTP listener, and files, pipes and listeners.
constexpr int64_t kOtherDescriptors = 128;

}  // namespace

int64_t raise_descriptor_limit() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return 1024;
  rlimit raised = limit;
  raised.rlim_cur = limit.rlim_max;
  if (setrlimit(RLIMIT_NOFILE, &raised) == 0) limit = raised;
  constexpr auto kMost = static_cast<rlim_t>(std::numeric_limits<int64_t>::max());
  return static_cast<int64_t>(std::min(limit.rlim_cur, kMost));
}

absl::StatusOr<int32_t> connection_limit(int32_t wanted, int64_t descriptors) {
  const int64_t possible = (descriptors - kOtherDescriptors) / kDescriptorsPerConnection;
  if (wanted == 0 && possible >= 1) {
    return static_cast<int32_t>(std::min(possible, kDefaultConnections));
  }
  if (wanted >= 1 && wanted <= possible) return wanted;
  const int64_t connections = std::max(wanted, 1);
  return absl::ResourceExhaustedError(
      absl::StrCat("max_connections: ", connections, " connections take ",
                   connections * kDescriptorsPerConnection + kOtherDescriptors,
                   " descriptors, but the process may open ", descriptors, " (ulimit -Hn)"));
}

}  // namespace kascade::net
