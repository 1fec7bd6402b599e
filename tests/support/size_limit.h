// Stands for a full disk: while it lives, no file of this process can grow beyond a size.
#ifndef KASCADE_TESTS_SUPPORT_SIZE_LIMIT_H_
#define KASCADE_TESTS_SUPPORT_SIZE_LIMIT_H_

#include <sys/resource.h>

#include <csignal>
#include <cstddef>

namespace kascade::testing {

class SizeLimit {
 public:
  explicit SizeLimit(size_t bytes) : handler_(std::signal(SIGXFSZ, SIG_IGN)) {
    getrlimit(RLIMIT_FSIZE, &before_);
    const rlimit limit{bytes, before_.rlim_max};
    setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~SizeLimit() {
    setrlimit(RLIMIT_FSIZE, &before_);
    std::signal(SIGXFSZ, handler_);
  }
  SizeLimit(const SizeLimit&) = delete;
  SizeLimit& operator=(const SizeLimit&) = delete;

 private:
  void (*handler_)(int);
  rlimit before_{};
};

}  // namespace kascade::testing

#endif  // KASCADE_TESTS_SUPPORT_SIZE_LIMIT_H_
