// The descriptors that the operating system lets the process have.
#ifndef KASCADE_SERVER_NET_DESCRIPTORS_H_
#define KASCADE_SERVER_NET_DESCRIPTORS_H_

#include <cstdint>

#include "absl/status/statusor.h"

namespace kascade::net {

// Raises the soft limit of open descriptors to the hard one. The limit that holds afterwards.
int64_t raise_descriptor_limit();

// How many gRPC connections the server may have at once with `descriptors` in all: `wanted`, or
// with 0 as many as there are descriptors for, at most 4,096. A connection takes two descriptors,
// and 128 are kept for everything else. RESOURCE_EXHAUSTED: there are too few for `wanted`, or for
// one connection.
absl::StatusOr<int32_t> connection_limit(int32_t wanted, int64_t descriptors);

}  // namespace kascade::net

#endif  // KASCADE_SERVER_NET_DESCRIPTORS_H_
