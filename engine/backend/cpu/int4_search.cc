// quantize_int4() with one vector lane per group of 16 inputs. The file is compiled without fused
// multiplication and addition, and each lane adds in the order of quantize_int4(), so that levels
// and multiples are equal to the bit.
#include "engine/backend/cpu/int4_search.h"

#include "engine/backend/cpu/vector.h"
#include "engine/backend/quantization.h"

namespace kascade::cpu::KASCADE_ISA {
namespace {

constexpr int kGroup = static_cast<int>(kInt4Group);

KASCADE_INLINE Vec magnitude_of(Vec value) {
  return reinterpret_cast<Vec>(reinterpret_cast<BitVec>(value) & 0x7fffffffu);
}
// Selects bits: clang 19 miscompiles `?:` on the comparison of magnitudes at -O3.
KASCADE_INLINE Vec selected(IntVec condition, Vec if_true, Vec if_false) {
  const BitVec mask = reinterpret_cast<BitVec>(condition);
  return reinterpret_cast<Vec>((reinterpret_cast<BitVec>(if_true) & mask) |
                               (reinterpret_cast<BitVec>(if_false) & ~mask));
}
KASCADE_INLINE Vec rounded(Vec value) {
  const Vec fractionless = broadcast(0x1.8p23f);
  return (value + fractionless) - fractionless;
}
KASCADE_INLINE Vec clamped(Vec value, float low, float high) {
  const Vec lowest = broadcast(low), highest = broadcast(high);
  value = value < lowest ? lowest : value;
  return value > highest ? highest : value;
}

// kLanes groups, element i of every group in values[i].
struct Groups {
  Vec values[kGroup];
};

KASCADE_INLINE Vec level_of(Vec value, Vec step) {
  return clamped(rounded(value * (broadcast(1.0f) / step)), -8.0f, 7.0f);
}

struct Best {
  Vec multiple;
  Vec error;
};

KASCADE_INLINE void offer(const Groups& groups, Vec candidate, float scale, Best& best) {
  const Vec step = candidate * scale;
  const Vec inverse = broadcast(1.0f) / step;
  Vec sum{};
#pragma GCC unroll 16
  for (int i = 0; i < kGroup; ++i) {
    const Vec level = clamped(rounded(groups.values[i] * inverse), -8.0f, 7.0f);
    const Vec miss = groups.values[i] - level * step;
    sum = sum + miss * miss;
  }
  best.multiple = sum < best.error ? candidate : best.multiple;
  best.error = sum < best.error ? sum : best.error;
}

// The multiple of each group; 0 for a group of zeros.
KASCADE_INLINE Vec find_multiples(const Groups& groups, float scale) {
  Vec largest{};
  Vec most{};
  for (int i = 0; i < kGroup; ++i) {
    const Vec value = groups.values[i], magnitude = magnitude_of(value);
    largest = selected(magnitude > most, value, largest);
    most = selected(magnitude > most, magnitude, most);
  }
  Best best{Vec{}, broadcast(kInfinity)};
  for (float level = kInt4Tightest; level <= kInt4Widest; level += kInt4Pace) {
    const Vec size = magnitude_of(largest) / broadcast(level * scale);
    const Vec multiple = clamped(rounded(size), 1.0f, kInt4LargestMultiple);
    const Vec first = largest > Vec{} ? -multiple : multiple;
    offer(groups, first, scale, best);
    offer(groups, -first, scale, best);
  }
  return largest == Vec{} ? Vec{} : best.multiple;
}

// Reads `count` values of kLanes groups, filled up with zeros, and scales them.
KASCADE_INLINE void read_groups(const float* values, int64_t count, float inverse, Groups& groups) {
  float transposed[kGroup][kLanes] = {};
  for (int64_t i = 0; i < count; ++i) transposed[i % kGroup][i / kGroup] = values[i] * inverse;
  for (int i = 0; i < kGroup; ++i) groups.values[i] = load(transposed[i]);
}

KASCADE_INLINE void write_groups(const Groups& groups, Vec multiples, float scale, int64_t count,
                                 int8_t* levels, int8_t* multiples_out) {
  float transposed[kGroup][kLanes];
  const Vec step = multiples * scale;
  for (int i = 0; i < kGroup; ++i) {
    const Vec level = level_of(groups.values[i], step);
    store(transposed[i], multiples == Vec{} ? Vec{} : level);
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
  const float inverse = 1.0f / largest;
  constexpr float kScale = 1.0f / (kInt4Tightest * kInt4LargestMultiple);
  for (int64_t first = 0; first < size; first += kValues) {
    const int64_t count = size - first < kValues ? size - first : kValues;
    Groups groups;
    read_groups(values + first, count, inverse, groups);
    const Vec found = find_multiples(groups, kScale);
    write_groups(groups, found, kScale, count, levels + first, multiples + first / kGroup);
  }
  return largest * kScale;
}

}  // namespace kascade::cpu::KASCADE_ISA
