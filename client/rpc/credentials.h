// TLS and the access token: read from files, and what to say when a connection fails.
#ifndef KASCADE_CLIENT_RPC_CREDENTIALS_H_
#define KASCADE_CLIENT_RPC_CREDENTIALS_H_

#include <grpcpp/channel.h>
#include <grpcpp/security/credentials.h>

#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/rpc/call.h"

namespace kascade::client {

// Sets `token` from `token_file`, or else from the variable KASCADE_TOKEN; white space around it is
// dropped. INVALID_ARGUMENT: the token is empty or has bytes that no header can carry; another
// error: the file cannot be read. No message contains the token.
absl::Status read_token(Credentials& credentials);

// What to connect with. The error names option and file.
absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> channel_credentials(
    const Credentials& credentials);

// Why `channel` could not connect: UNAVAILABLE with the address and, with TLS, what gRPC says of
// the handshake.
absl::Status connection_failure(const Globals& globals,
                                const std::shared_ptr<grpc::Channel>& channel);

}  // namespace kascade::client

#endif  // KASCADE_CLIENT_RPC_CREDENTIALS_H_
