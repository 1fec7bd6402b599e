// Access tokens: who may call which methods, by a secret that the client sends with each call. The
// server knows SHA-256 digests only, so its file does not give the secrets away.
#ifndef KASCADE_SERVER_SECURITY_ACCESS_TOKENS_H_
#define KASCADE_SERVER_SECURITY_ACCESS_TOKENS_H_

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "server/security/file_watch.h"

namespace kascade::security {

// What a token allows. None implies another.
enum class Scope : uint8_t { kInfer, kCalibrate, kAdmin };
std::string_view name_of(Scope scope);  // "infer", "calibrate", "admin"

struct AccessToken {
  std::string name{};                               // in messages and for fairness between clients
  std::string sha256{};                             // of the secret, 64 lower-case hex digits
  std::vector<Scope> scopes{};                      // at least one
  std::optional<int32_t> max_requests_in_flight{};  // in [1, 1,048,576]; unset: no limit

  bool allows(Scope scope) const;
};

// A list of objects with name (1 to 64 letters, digits, '-', '_', '.'), sha256, scopes and,
// optionally, max_requests_in_flight. INVALID_ARGUMENT names the entry and the field: an unknown or
// missing key, a wrong type, a value out of range, or a name or digest that occurs twice.
absl::StatusOr<std::vector<AccessToken>> parse_access_tokens(std::string_view json);
// The same from a file; the error begins with "--tokens FILE: ".
absl::StatusOr<std::vector<AccessToken>> read_access_tokens(const std::filesystem::path& file);

// Counts one request of a token as in flight until it is destroyed or reset.
class InFlight {
 public:
  using Count = std::shared_ptr<std::atomic<int32_t>>;
  explicit InFlight(Count count = nullptr) : count_(std::move(count)) {}  // counted already
  InFlight(InFlight&& other) noexcept : count_(std::exchange(other.count_, nullptr)) {}
  InFlight& operator=(InFlight&& other) noexcept {
    std::swap(count_, other.count_);
    return *this;
  }
  ~InFlight() { reset(); }
  void reset() {
    if (const Count count = std::exchange(count_, nullptr)) count->fetch_sub(1);
  }

 private:
  Count count_;
};

// A request that was let in.
struct AdmittedRequest {
  std::string token_name{};
  InFlight in_flight{};
};

class AccessTokens {
 public:
  // Reads the file, and again whenever it changes. A new file with an error is not used, and the
  // log says why. Errors: those of read_access_tokens().
  static absl::StatusOr<std::unique_ptr<AccessTokens>> open(
      const std::filesystem::path& file, absl::Duration interval = kFileWatchInterval);

  // Looks at the file at once instead of at the next interval. Thread-safe.
  void read_again() { watch_.look(); }

  // `authorization` are the values of that header. UNAUTHENTICATED: not exactly one
  // "Bearer SECRET" whose secret is known. PERMISSION_DENIED: the token lacks the scope that `rpc`
  // needs. RESOURCE_EXHAUSTED: it has as many requests in flight as it may. Thread-safe.
  absl::StatusOr<AdmittedRequest> admit(const std::vector<std::string_view>& authorization,
                                        Scope scope, std::string_view rpc) const;
  // UNAUTHENTICATED as above. For what any token may do.
  absl::Status check_known(const std::vector<std::string_view>& authorization) const;

 private:
  struct Entry {
    AccessToken token{};
    InFlight::Count count{};
  };

  AccessTokens(std::filesystem::path file, absl::Duration interval);
  absl::Status load();
  absl::StatusOr<Entry> find(const std::vector<std::string_view>& authorization) const;

  const std::filesystem::path file_;
  mutable std::mutex mutex_;  // guards entries_ and counts_
  std::shared_ptr<const std::vector<Entry>> entries_;
  std::map<std::string, InFlight::Count> counts_;  // by name, so that they outlast a new file
  FileWatch watch_;                                // last: its thread uses the others
};

}  // namespace kascade::security

#endif  // KASCADE_SERVER_SECURITY_ACCESS_TOKENS_H_
