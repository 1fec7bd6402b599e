// Keeps what is logged while it lives, in place of writing it to standard output.
#ifndef KASCADE_TESTS_SUPPORT_CAPTURED_LOG_H_
#define KASCADE_TESTS_SUPPORT_CAPTURED_LOG_H_

#include <chrono>
#include <memory>
#include <string>
#include <thread>

#include "spdlog/sinks/ringbuffer_sink.h"
#include "spdlog/spdlog.h"

namespace kascade::testing {

class CapturedLog {
 public:
  explicit CapturedLog(std::unique_ptr<spdlog::formatter> formatter = nullptr)
      : before_(spdlog::default_logger()) {
    auto logger = std::make_shared<spdlog::logger>("captured", sink_);
    if (formatter != nullptr) logger->set_formatter(std::move(formatter));
    logger->set_level(spdlog::level::debug);
    spdlog::set_default_logger(logger);
  }
  ~CapturedLog() { spdlog::set_default_logger(before_); }
  CapturedLog(const CapturedLog&) = delete;
  CapturedLog& operator=(const CapturedLog&) = delete;

  std::string text() const {
    std::string lines;
    for (const std::string& line : sink_->last_formatted()) lines += line;
    return lines;
  }
  // Waits until the text appears. Returns false after 60 seconds.
  bool waits_for(const std::string& words) const {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
    while (text().find(words) == std::string::npos) {
      if (std::chrono::steady_clock::now() > deadline) return false;
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    return true;
  }

 private:
  const std::shared_ptr<spdlog::logger> before_;
  const std::shared_ptr<spdlog::sinks::ringbuffer_sink_mt> sink_ =
      std::make_shared<spdlog::sinks::ringbuffer_sink_mt>(1000);
};

}  // namespace kascade::testing

#endif  // KASCADE_TESTS_SUPPORT_CAPTURED_LOG_H_
