// What an operator says about who may reach the gRPC listener, and its check before the model
// loads.
#ifndef KASCADE_SERVER_SECURITY_LISTENER_SECURITY_H_
#define KASCADE_SERVER_SECURITY_LISTENER_SECURITY_H_

#include <filesystem>

#include "absl/status/status.h"
#include "server/net/address.h"
#include "server/security/tls_files.h"

namespace kascade::security {

struct ListenerSecurity {
  TlsFiles tls{};                  // --tls-cert, --tls-key, --tls-client-ca
  std::filesystem::path tokens{};  // --tokens; empty: no access token is asked for
  bool allow_plaintext = false;    // --allow-plaintext: other machines may reach it without TLS
};

// FAILED_PRECONDITION: other machines can reach the address, and there is neither TLS nor
// allow_plaintext. Else the first error of the files that are named.
absl::Status check(const ListenerSecurity& security, const net::Address& listen);

}  // namespace kascade::security

#endif  // KASCADE_SERVER_SECURITY_LISTENER_SECURITY_H_
