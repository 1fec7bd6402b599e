// Shows progress on standard error: on a terminal one line that is redrawn, otherwise a new line
// from time to time.
#ifndef KASCADE_TOOLS_TERMINAL_PROGRESS_H_
#define KASCADE_TOOLS_TERMINAL_PROGRESS_H_

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>

namespace kascade::client {

struct Progress {
  std::string stage{};
  int64_t done = 0;
  int64_t total = 0;  // 0 means unknown
  double tokens_per_second = 0;
  std::optional<double> eta_seconds{};
};

class ProgressDisplay {
 public:
  ProgressDisplay();
  ~ProgressDisplay() { finish(); }
  ProgressDisplay(const ProgressDisplay&) = delete;
  ProgressDisplay& operator=(const ProgressDisplay&) = delete;

  void show(const Progress& progress);
  // Clears the progress line on a terminal before results are printed.
  void finish();

 private:
  bool due(const Progress& progress, double share);
  bool terminal_;
  bool drawn_ = false;
  std::string last_stage_;
  double last_share_ = 0;
  std::chrono::steady_clock::time_point last_time_{};
};

}  // namespace kascade::client

#endif  // KASCADE_TOOLS_TERMINAL_PROGRESS_H_
