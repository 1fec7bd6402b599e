// Authorities and certificates for tests of TLS, made in memory.
#ifndef KASCADE_TESTS_SUPPORT_CERTIFICATES_H_
#define KASCADE_TESTS_SUPPORT_CERTIFICATES_H_

#include <memory>
#include <string>

#include "absl/time/time.h"

namespace kascade::testing {

// PEM.
struct Identity {
  std::string certificate{};
  std::string key{};
};

class Authority {
 public:
  explicit Authority(const std::string& name);
  ~Authority();
  Authority(const Authority&) = delete;
  Authority& operator=(const Authority&) = delete;

  std::string certificate() const;
  // A certificate for localhost and 127.0.0.1 that expires after this time; expired if negative.
  Identity issue(const std::string& name, absl::Duration lifetime = absl::Hours(1)) const;

 private:
  struct Parts;
  const std::unique_ptr<Parts> parts_;
};

// The key of an identity, encrypted with a passphrase.
std::string encrypted_key(const Identity& identity);

}  // namespace kascade::testing

#endif  // KASCADE_TESTS_SUPPORT_CERTIFICATES_H_
