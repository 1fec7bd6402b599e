#include "tools/terminal/progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "tools/terminal/print.h"

namespace kascade::client {
namespace {

constexpr int kBarWidth = 24;
constexpr double kPlainStep = 0.1;                  // fraction of the stage
constexpr std::chrono::seconds kPlainInterval{10};  // longest time between lines in a log

std::string figures(const Progress& progress, double share) {
  if (progress.total <= 0) return "";
  std::string out = fmt::format("{:3.0f} %", share * 100);
  if (progress.tokens_per_second > 0) {
    out += fmt::format("  {} tokens/s", with_commas(std::llround(progress.tokens_per_second)));
  }
  if (progress.eta_seconds) out += fmt::format("  ETA {}", duration(*progress.eta_seconds));
  return out;
}

std::string bar(double share) {
  const int filled = static_cast<int>(share * kBarWidth);
  return fmt::format("[{}{}]", std::string(filled, '#'), std::string(kBarWidth - filled, '.'));
}

}  // namespace

ProgressDisplay::ProgressDisplay() : terminal_(isatty(STDERR_FILENO) != 0) {}

bool ProgressDisplay::due(const Progress& progress, double share) {
  const auto now = std::chrono::steady_clock::now();
  if (progress.stage == last_stage_ && share < last_share_ + kPlainStep &&
      now < last_time_ + kPlainInterval) {
    return false;
  }
  last_stage_ = progress.stage;
  last_share_ = share;
  last_time_ = now;
  return true;
}

void ProgressDisplay::show(const Progress& progress) {
  const double share =
      progress.total > 0 ? std::clamp(static_cast<double>(progress.done) / progress.total, 0.0, 1.0)
                         : 0.0;
  if (terminal_) {
    drawn_ = true;
    fmt::print(stderr, "\r\033[K{:<24} {} {}", progress.stage, bar(share),
               figures(progress, share));
  } else if (due(progress, share)) {
    fmt::print(stderr, "{:<24} {}\n", progress.stage, figures(progress, share));
  }
  std::fflush(stderr);
}

void ProgressDisplay::finish() {
  if (drawn_) fmt::print(stderr, "\r\033[K");
  drawn_ = false;
  std::fflush(stderr);
}

}  // namespace kascade::client
