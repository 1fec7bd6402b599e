#include "engine/calibration/crossover.h"

#include <algorithm>
#include <cmath>

namespace kascade {
namespace {

// Seconds per row = start + slope · position.
struct Line {
  double start = 0;
  double slope = 0;
};

// Least squares, each chunk at its middle and with the weight of its rows.
Line fit(std::span<const ChunkTime> chunks) {
  const auto middle = [](const ChunkTime& chunk) { return chunk.begin + chunk.rows / 2.0; };
  double rows = 0, seconds = 0, positions = 0;
  for (const ChunkTime& chunk : chunks) {
    rows += chunk.rows;
    seconds += chunk.seconds;
    positions += middle(chunk) * chunk.rows;
  }
  const double mean_position = positions / rows, mean_seconds = seconds / rows;
  double product = 0, square = 0;
  for (const ChunkTime& chunk : chunks) {
    const double away = middle(chunk) - mean_position;
    product += away * (chunk.seconds - mean_seconds * chunk.rows);
    square += away * away * chunk.rows;
  }
  const double slope = square > 0 ? product / square : 0;
  return {mean_seconds - slope * mean_position, slope};
}

}  // namespace

void keep_shortest(std::span<const ChunkTime> run, std::vector<ChunkTime>& times) {
  for (const ChunkTime& chunk : run) {
    const auto same = std::ranges::find_if(times, [&](const ChunkTime& other) {
      return other.begin == chunk.begin && other.rows == chunk.rows;
    });
    if (same == times.end()) {
      times.push_back(chunk);
    } else {
      same->seconds = std::min(same->seconds, chunk.seconds);
    }
  }
}

int32_t crossover_position(std::span<const ChunkTime> dense, std::span<const ChunkTime> sparse,
                           int32_t context) {
  if (dense.size() < 2 || sparse.size() < 2) return 0;
  const Line slow = fit(dense), fast = fit(sparse);
  const double lead = fast.start - slow.start;  // by which sparse attention is slower at the start
  if (lead <= 0) return 0;
  const double gain = slow.slope - fast.slope;  // per position
  if (gain <= 0 || lead >= gain * context) return context;
  const double steps = std::round(lead / gain / kCrossoverStep);
  return std::min(context, static_cast<int32_t>(steps) * kCrossoverStep);
}

}  // namespace kascade
