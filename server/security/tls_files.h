// The PEM files of the listener's TLS: read, and checked to belong together.
#ifndef KASCADE_SERVER_SECURITY_TLS_FILES_H_
#define KASCADE_SERVER_SECURITY_TLS_FILES_H_

#include <filesystem>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace kascade::security {

// Either both `certificate` and `key` are named, or no file is and there is no TLS.
struct TlsFiles {
  std::filesystem::path certificate{};         // --tls-cert: the server's, then its intermediates
  std::filesystem::path key{};                 // --tls-key: of that certificate, not encrypted
  std::filesystem::path client_authorities{};  // --tls-client-ca; empty: clients show none

  bool enabled() const { return !certificate.empty(); }
  std::vector<std::filesystem::path> named() const;
};

// What the files hold, as PEM.
struct TlsContents {
  std::string certificate{};
  std::string key{};
  std::string client_authorities{};  // empty: client certificates are not asked for
  absl::Time expiry{};               // of the server's certificate

  bool operator==(const TlsContents&) const = default;
};

// INVALID_ARGUMENT names flag and file: it cannot be read, holds no PEM of its kind, or the key is
// encrypted or of another certificate. An expired certificate is no error.
absl::StatusOr<TlsContents> read_tls_files(const TlsFiles& files);

}  // namespace kascade::security

#endif  // KASCADE_SERVER_SECURITY_TLS_FILES_H_
