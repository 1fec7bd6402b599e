// How much one message of a stream holds.
#ifndef KASCADE_SERVER_GRPC_MESSAGE_SIZE_H_
#define KASCADE_SERVER_GRPC_MESSAGE_SIZE_H_

namespace kascade::server {

// With 20 candidates each, this many tokens stay far below the 4 MiB that clients accept by
// default.
inline constexpr int kMaxTokensPerMessage = 4096;

}  // namespace kascade::server

#endif  // KASCADE_SERVER_GRPC_MESSAGE_SIZE_H_
