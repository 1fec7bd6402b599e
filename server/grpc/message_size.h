// How much one message of a stream holds.
#ifndef KASCADE_SERVER_GRPC_MESSAGE_SIZE_H_
#define KASCADE_SERVER_GRPC_MESSAGE_SIZE_H_

namespace kascade::server {

// With 20 candidates each, this many tokens stay far below the 4 MiB that clients accept by
// default.
inline constexpr int kMaxTokensPerMessage = 4096;
// The same for the selected keys, and the cells of maps, of a trace; the last head or row of a
// message may go beyond it, by at most 16,384.
inline constexpr int kMaxTracedPerMessage = 131072;

}  // namespace kascade::server

#endif  // KASCADE_SERVER_GRPC_MESSAGE_SIZE_H_
