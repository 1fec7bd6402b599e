// KASCADE_CHECK ends the process when it finds a bug of the program itself. Errors that a request,
// a file or a device can cause are an absl::Status instead.
#ifndef KASCADE_ENGINE_BASE_CHECK_H_
#define KASCADE_ENGINE_BASE_CHECK_H_

#include <cstdio>
#include <cstdlib>

namespace kascade {

[[noreturn]] inline void check_failed(const char* file, int line, const char* condition) {
  std::fprintf(stderr, "%s:%d: check failed: %s\n", file, line, condition);
  std::abort();
}

}  // namespace kascade

#define KASCADE_CHECK(condition) \
  ((condition) ? static_cast<void>(0) : ::kascade::check_failed(__FILE__, __LINE__, #condition))

#endif  // KASCADE_ENGINE_BASE_CHECK_H_
