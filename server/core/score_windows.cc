#include "server/core/score_windows.h"

#include <algorithm>

namespace kascade::core {

std::vector<ScoreWindow> rolling_windows(int64_t size, int32_t window, int64_t first_scored) {
  std::vector<ScoreWindow> windows;
  // Windows of two tokens are as many as the tokens; growing would take as much again.
  windows.reserve(static_cast<size_t>((size - first_scored) / (window - 1) + 2));
  int64_t next = first_scored;  // first token that is not scored yet
  if (next < window) {
    const auto count = static_cast<int32_t>(std::min<int64_t>(size, window));
    windows.push_back({0, count, static_cast<int32_t>(next)});
    next = count;
  }
  while (next < size) {
    const int64_t end = std::min<int64_t>(size, next + window - 1);
    const int64_t begin = end - window;
    windows.push_back({begin, window, static_cast<int32_t>(next - begin)});
    next = end;
  }
  return windows;
}

std::vector<ScoreWindow> chunk_windows(int64_t size, int32_t window) {
  std::vector<ScoreWindow> windows;
  windows.reserve(static_cast<size_t>(size / window));
  for (int64_t begin = 0; begin + window <= size; begin += window) {
    windows.push_back({begin, window, window / 2 + 1});
  }
  return windows;
}

std::vector<ScoreWindow> strided_windows(int64_t size, int32_t window, int32_t stride,
                                         int64_t first_scored) {
  std::vector<ScoreWindow> windows;
  windows.reserve(static_cast<size_t>(std::max<int64_t>(0, size - window) / stride + 2));
  int64_t next = first_scored;  // first token that is not scored yet
  for (int64_t begin = 0; next < size; begin += stride) {
    const int64_t end = std::min<int64_t>(size, begin + window);
    if (end <= next) continue;  // a long BOS
    windows.push_back(
        {begin, static_cast<int32_t>(end - begin), static_cast<int32_t>(next - begin)});
    next = end;
  }
  return windows;
}

}  // namespace kascade::core
