// The options that the server runs with, as texts, for those who ask a running server.
#ifndef KASCADE_SERVER_CORE_CONFIGURED_OPTIONS_H_
#define KASCADE_SERVER_CORE_CONFIGURED_OPTIONS_H_

#include <mutex>
#include <string>
#include <utility>
#include <vector>

namespace kascade::core {

struct ConfiguredOption {
  std::string name{};       // "max-queue"
  std::string value{};      // as it was written; empty: not given, and there is no default
  std::string source{};     // "default", "flag", "environment NAME", or "FILE:LINE"
  bool reloadable = false;  // SIGHUP takes a new value over
};

// Thread-safe.
class ConfiguredOptions {
 public:
  explicit ConfiguredOptions(std::vector<ConfiguredOption> options)
      : options_(std::move(options)) {}

  void set(std::vector<ConfiguredOption> options) {
    const std::lock_guard lock(mutex_);
    options_ = std::move(options);
  }
  std::vector<ConfiguredOption> get() const {
    const std::lock_guard lock(mutex_);
    return options_;
  }

 private:
  mutable std::mutex mutex_;
  std::vector<ConfiguredOption> options_;
};

}  // namespace kascade::core

#endif  // KASCADE_SERVER_CORE_CONFIGURED_OPTIONS_H_
