// The classes of work that share the engine.
#ifndef KASCADE_ENGINE_BASE_PRIORITY_H_
#define KASCADE_ENGINE_BASE_PRIORITY_H_

#include <array>
#include <cstddef>
#include <string_view>

namespace kascade {

// Interactive requests are served first, batch requests get what they leave, and at least a
// configured share; background is calibration. In the order of precedence.
enum class Priority { kInteractive, kBatch, kBackground };

inline constexpr size_t kPriorities = 3;
inline constexpr std::array<Priority, kPriorities> kEveryPriority{
    Priority::kInteractive, Priority::kBatch, Priority::kBackground};

// As a limit on the wait of interactive requests, in place of seconds: about as long as the request
// takes from its first step to its first token, or as the prompts before it take on average.
inline constexpr double kAutomaticWait = -1;

constexpr std::string_view name_of(Priority priority) {
  constexpr std::array<std::string_view, kPriorities> kNames{"interactive", "batch", "background"};
  return kNames[static_cast<size_t>(priority)];
}

}  // namespace kascade

#endif  // KASCADE_ENGINE_BASE_PRIORITY_H_
