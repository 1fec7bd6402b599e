// The passes over all scores that choose_keys() is made of. On a machine with AVX-512 the CPU
// backend brings its own.
#ifndef KASCADE_ENGINE_BACKEND_HOST_CHOICE_KERNELS_H_
#define KASCADE_ENGINE_BACKEND_HOST_CHOICE_KERNELS_H_

#include <cstdint>

namespace kascade {

struct ChoiceKernels {
  // ranks[i]: bits that order as the scores do. −0 and 0 are equal; NaN, of which neither order nor
  // thresholds are defined, ranks as −∞.
  void (*rank)(const float* scores, int64_t count, uint32_t* ranks);

  // Copies the ranks in [low, high] to `inside`, which has room for kBeyond more than all of them;
  // says how many those are and how many are above.
  struct Split {
    int64_t inside;
    int64_t above;
  };
  Split (*split)(const uint32_t* ranks, int64_t count, uint32_t low, uint32_t high,
                 uint32_t* inside);
  static constexpr int64_t kBeyond = 16;

  // Writes the indices of the first `wanted` ranks that are above the threshold or among the first
  // `ties` that equal it, ascending. There are as many.
  void (*take)(const uint32_t* ranks, int64_t count, uint32_t threshold, int64_t ties,
               int64_t wanted, int32_t* out);
};

// In plain loops.
extern const ChoiceKernels kPlainChoice;

}  // namespace kascade

#endif  // KASCADE_ENGINE_BACKEND_HOST_CHOICE_KERNELS_H_
