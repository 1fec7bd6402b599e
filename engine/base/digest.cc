#include "engine/base/digest.h"

#include <openssl/evp.h>

#include <array>

#include "absl/strings/escaping.h"
#include "engine/base/check.h"

namespace kascade {

struct Sha256::Context {
  Context() : evp(EVP_MD_CTX_new()) {}
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;
  ~Context() { EVP_MD_CTX_free(evp); }

  EVP_MD_CTX* evp;
};

// Hashing memory fails only if OpenSSL itself is broken or out of memory.
Sha256::Sha256() : context_(std::make_unique<Context>()) {
  KASCADE_CHECK(context_->evp != nullptr &&
                EVP_DigestInit_ex(context_->evp, EVP_sha256(), nullptr) == 1);
}

Sha256::~Sha256() = default;

void Sha256::add(const void* data, int64_t bytes) {
  KASCADE_CHECK(EVP_DigestUpdate(context_->evp, data, static_cast<size_t>(bytes)) == 1);
}

std::string Sha256::hex() {
  std::array<unsigned char, EVP_MAX_MD_SIZE> raw{};
  unsigned size = 0;
  KASCADE_CHECK(EVP_DigestFinal_ex(context_->evp, raw.data(), &size) == 1);
  return absl::BytesToHexString(std::string(reinterpret_cast<const char*>(raw.data()), size));
}

std::string digest(std::string_view bytes) {
  Sha256 hash;
  hash.add(bytes);
  return hash.hex();
}

}  // namespace kascade
