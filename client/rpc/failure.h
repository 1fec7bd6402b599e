// Reports failures of the client: one line on standard error and an exit code.
#ifndef KASCADE_CLIENT_RPC_FAILURE_H_
#define KASCADE_CLIENT_RPC_FAILURE_H_

#include <grpcpp/support/status.h>

#include "absl/status/status.h"

namespace kascade::client {

enum ExitCode : int { kSuccess = 0, kFailure = 1, kUsage = 2, kQualityCheck = 3 };

// Converts the status of a failed call. The machine-readable details are added to the message
// unless it contains them already.
absl::Status from_grpc(const grpc::Status& status);

// Prints "kascade: CODE_NAME: message" as one line.
void print_failure(const absl::Status& status);

// Prints the failure and returns kFailure.
int fail(const absl::Status& status);

}  // namespace kascade::client

#endif  // KASCADE_CLIENT_RPC_FAILURE_H_
