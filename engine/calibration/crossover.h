// Finds the position from which on sparse attention takes less time than dense attention, from the
// durations of the chunks of a prompt.
#ifndef KASCADE_ENGINE_CALIBRATION_CROSSOVER_H_
#define KASCADE_ENGINE_CALIBRATION_CROSSOVER_H_

#include <cstdint>
#include <span>
#include <vector>

namespace kascade {

// How long the rows [begin, begin + rows) of a prompt took in one step.
struct ChunkTime {
  int32_t begin = 0;   // position
  int32_t rows = 0;    // ≥ 1
  double seconds = 0;  // of the whole step
};

// Puts the times of another run of the same prompt into `times`: of two runs the shorter time of a
// chunk is kept. Chunks that only one of them has are kept, too.
void keep_shortest(std::span<const ChunkTime> run, std::vector<ChunkTime>& times);

inline constexpr int32_t kCrossoverStep = 256;

// Fits a straight line to the seconds per row of each of the two, by position, and returns where
// the lines meet: the position rounded to a multiple of kCrossoverStep, so that small errors of
// the measurement make no difference. 0 if sparse attention takes less time everywhere, or if
// either of the two has fewer than two chunks. `context` [tokens] if it never takes less time, or
// only beyond.
int32_t crossover_position(std::span<const ChunkTime> dense, std::span<const ChunkTime> sparse,
                           int32_t context);

}  // namespace kascade

#endif  // KASCADE_ENGINE_CALIBRATION_CROSSOVER_H_
