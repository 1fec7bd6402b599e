// quantize_int4() with one vector lane per group of 16 inputs. The file is compiled without fused
// multiplication and addition, and each lane adds in the order of quantize_int4(), so that levels
// and multiples are equal to the bit.
#include "engine/backend/cpu/int4_search.h"

#include "engine/backend/cpu/vector.h"
#include "engine/backend/quantization.h"

namespace kascade::cpu::KASCADE_ISA {
namespace {

constexpr int kGroup = static_cast<int>(kInt4Group);

KASCADE_INLINE Vec rounded(Vec value) {
  const Vec fractionless = broadcast(0x1.8p23f);
  return (value + fractionless) - fractionless;
}

// kLanes groups, element i of every group in values[i].
struct Groups {
  Vec values[kGroup];
};

// Whole numbers from -6 to 5, even ones below and odd ones above (kInt4Levels).
KASCADE_INLINE Vec nearest_level(Vec value) {
  const Vec odd = value > Vec{} ? broadcast(1.0f) : Vec{};
  const Vec coarse = rounded((value - odd) * 0.5f) * 2.0f + odd;
  Vec level = value > broadcast(5.0f) ? coarse : rounded(value);
  level = value < broadcast(-5.5f) ? coarse : level;
  level = level < broadcast(-10.0f) ? broadcast(-10.0f) : level;
  return level > broadcast(9.0f) ? broadcast(9.0f) : level;
}

struct Best {
  Vec multiple{};
  Vec error = broadcast(kInfinity);
};

KASCADE_INLINE void offer(const Groups& groups, float candidate, Best& best) {
  Vec sum{};
#pragma GCC unroll 8
  for (int i = 0; i < kGroup; ++i) {
    const Vec level = nearest_level(groups.values[i] * (1.0f / candidate));
    const Vec miss = groups.values[i] - level * candidate;
    sum = sum + miss * miss;
  }
  best.multiple = sum < best.error ? broadcast(candidate) : best.multiple;
  best.error = sum < best.error ? sum : best.error;
}

KASCADE_INLINE Vec find_multiples(const Groups& groups) {
  Best best;
  for (int32_t multiple = kInt4LeastMultiple; multiple <= kInt4LargestMultiple; ++multiple) {
    offer(groups, static_cast<float>(multiple), best);
    offer(groups, static_cast<float>(-multiple), best);
  }
  return best.multiple;
}

// Reads `count` values of kLanes groups, filled up with zeros, and scales them.
KASCADE_INLINE void read_groups(const float* values, int64_t count, float inverse, Groups& groups) {
  float transposed[kGroup][kLanes] = {};
  for (int64_t i = 0; i < count; ++i) transposed[i % kGroup][i / kGroup] = values[i] * inverse;
  for (int i = 0; i < kGroup; ++i) groups.values[i] = load(transposed[i]);
}

KASCADE_INLINE void write_groups(const Groups& groups, Vec multiples, int64_t count, int8_t* levels,
                                 int8_t* multiples_out) {
  float transposed[kGroup][kLanes];
  const Vec inverse = broadcast(1.0f) / multiples;
  for (int i = 0; i < kGroup; ++i) {
    store(transposed[i], nearest_level(groups.values[i] * inverse));
  }
  for (int64_t i = 0; i < count; ++i) {
    levels[i] = static_cast<int8_t>(transposed[i % kGroup][i / kGroup]);
  }
  for (int64_t group = 0; group * kGroup < count; ++group) {
    multiples_out[group] = static_cast<int8_t>(multiples[group]);
  }
}

}  // namespace

float quantize_int4(const float* values, int64_t size, int8_t* levels, int8_t* multiples) {
  constexpr int64_t kValues = int64_t{kLanes} * kGroup;
  const float largest = largest_magnitude(values, size);
  // The cases in which all levels are 0.
  if (!(largest >= kNegligible)) return kascade::quantize_int4(values, size, levels, multiples);
  const float inverse = kInt4LargestStep / largest;
  for (int64_t first = 0; first < size; first += kValues) {
    const int64_t count = size - first < kValues ? size - first : kValues;
    Groups groups;
    read_groups(values + first, count, inverse, groups);
    const Vec found = find_multiples(groups);
    write_groups(groups, found, count, levels + first, multiples + first / kGroup);
  }
  return largest / kInt4LargestStep;
}

}  // namespace kascade::cpu::KASCADE_ISA
