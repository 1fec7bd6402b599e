#include "server/security/listener_security.h"

#include "absl/strings/str_cat.h"
#include "server/security/access_tokens.h"

namespace kascade::security {
namespace {

absl::Status check_reach(const ListenerSecurity& security, const net::Address& listen) {
  if (security.tls.enabled() || security.allow_plaintext) return absl::OkStatus();
  const auto local = net::is_local(listen);
  if (!local.ok()) return local.status();
  if (*local) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(
      "--listen ", listen.text(),
      ": other machines can reach this address, and without TLS whoever is on the way reads and "
      "changes requests: give --tls-cert FILE and --tls-key FILE, or --allow-plaintext if "
      "something else protects the connection"));
}

}  // namespace

absl::Status check(const ListenerSecurity& security, const net::Address& listen) {
  if (absl::Status status = check_reach(security, listen); !status.ok()) return status;
  if (security.tls.enabled()) {
    const auto contents = read_tls_files(security.tls);
    if (!contents.ok()) return contents.status();
  }
  if (security.tokens.empty()) return absl::OkStatus();
  return read_access_tokens(security.tokens).status();
}

}  // namespace kascade::security
