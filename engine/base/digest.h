// SHA-256 digests, which identify models, texts and schedules.
#ifndef KASCADE_ENGINE_BASE_DIGEST_H_
#define KASCADE_ENGINE_BASE_DIGEST_H_

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

namespace kascade {

class Sha256 {
 public:
  Sha256();
  ~Sha256();
  Sha256(const Sha256&) = delete;
  Sha256& operator=(const Sha256&) = delete;

  void add(const void* data, int64_t bytes);
  void add(std::string_view text) { add(text.data(), static_cast<int64_t>(text.size())); }
  // Returns the digest as 64 lower-case hexadecimal digits. May be called only once.
  std::string hex();

 private:
  struct Context;
  std::unique_ptr<Context> context_;
};

// The digest of bytes in memory.
std::string digest(std::string_view bytes);

}  // namespace kascade

#endif  // KASCADE_ENGINE_BASE_DIGEST_H_
