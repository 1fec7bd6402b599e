// The loops over all scores that choose_keys() consists of. On a machine with AVX-512 the CPU
// backend provides vectorised ones.
#ifndef KASCADE_ENGINE_BACKEND_HOST_CHOICE_KERNELS_H_
#define KASCADE_ENGINE_BACKEND_HOST_CHOICE_KERNELS_H_

#include <cstdint>

namespace kascade {

struct ChoiceKernels {
  // Maps each score to an unsigned integer that sorts as the scores do. −0 and 0 are equal. NaN
  // ranks like −∞, since comparisons do not order it.
  void (*rank)(const float* scores, int64_t count, uint32_t* ranks);

  // Copies the ranks in [low, high] to `inside` and returns how many these are and how many ranks
  // are above `high`. `inside` needs room for kBeyond more elements than there are ranks, because
  // the kernel may write past the last one that counts.
  struct Split {
    int64_t inside;
    int64_t above;
  };
  Split (*split)(const uint32_t* ranks, int64_t count, uint32_t low, uint32_t high,
                 uint32_t* inside);
  static constexpr int64_t kBeyond = 16;

  // The sum of score_in_steps() (selection.h) over the scores with these ranks.
  uint64_t (*sum)(const uint32_t* ranks, int64_t count);

  // Writes, in ascending order, the indices of the ranks above `threshold` and of the first `ties`
  // ranks equal to it. Together these are at least `wanted`; the first `wanted` are written.
  void (*take)(const uint32_t* ranks, int64_t count, uint32_t threshold, int64_t ties,
               int64_t wanted, int32_t* out);
};

// The kernels as plain loops.
extern const ChoiceKernels kPlainChoice;

}  // namespace kascade

#endif  // KASCADE_ENGINE_BACKEND_HOST_CHOICE_KERNELS_H_
