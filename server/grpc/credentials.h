// The credentials of the gRPC listener: TLS whose files may change while the server runs, or none.
#ifndef KASCADE_SERVER_GRPC_CREDENTIALS_H_
#define KASCADE_SERVER_GRPC_CREDENTIALS_H_

#include <functional>
#include <memory>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "grpcpp/security/server_credentials.h"
#include "server/security/tls_files.h"

namespace kascade::server {

struct ListenerCredentials {
  std::shared_ptr<grpc::ServerCredentials> credentials{};
  std::function<void()> read_again{};  // looks at the files at once; null without files
};

// Without files: plaintext. Otherwise TLS, with the files as they are when a connection begins: a
// change takes effect within about a second, and connections that exist go on. Files that cannot be
// used (see read_tls_files) are an error here; later on the log warns, and the last good ones stay.
// `on_expiry` is told when the server's certificate expires, now and after each change, from
// another thread. The result must outlive the server that listens with it; it is for one address.
absl::StatusOr<ListenerCredentials> listener_credentials(const security::TlsFiles& files,
                                                         std::function<void(absl::Time)> on_expiry);

}  // namespace kascade::server

#endif  // KASCADE_SERVER_GRPC_CREDENTIALS_H_
