// A checksum of large files that is faster than memory. It detects damage but not manipulation, for
// which there is SHA-256.
#ifndef KASCADE_ENGINE_BASE_CHECKSUM_H_
#define KASCADE_ENGINE_BASE_CHECKSUM_H_

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

#include "engine/base/check.h"

namespace kascade {

// The checksum of a multiple of 64 bytes. Each 64-bit word goes into one of eight lanes by a
// bijection of the lane, and each lane into the result by a bijection, so that damage within one
// word is always detected; other damage remains undetected with probability 2^-64. A multiplication
// carries information only to higher bits, and the rotation moves the high bits back to the low
// end.
inline uint64_t checksum(std::span<const std::byte> bytes) {
  constexpr size_t kLanes = 8;
  constexpr uint64_t kOdd = 0x9e3779b97f4a7c15u, kOther = 0xd6e8feb86659fd93u;
  KASCADE_CHECK(bytes.size() % (kLanes * sizeof(uint64_t)) == 0);
  uint64_t lanes[kLanes];
  for (size_t i = 0; i < kLanes; ++i) lanes[i] = kOther * (i + 1);
  uint64_t words[kLanes];
  for (size_t at = 0; at < bytes.size(); at += sizeof words) {
    std::memcpy(words, bytes.data() + at, sizeof words);
    for (size_t i = 0; i < kLanes; ++i) lanes[i] = std::rotl((lanes[i] ^ words[i]) * kOdd, 29);
  }
  uint64_t sum = bytes.size();
  for (const uint64_t lane : lanes) {
    sum = std::rotl((sum ^ lane) * kOther, 31);
    sum ^= sum >> 33;
  }
  return sum;
}

}  // namespace kascade

#endif  // KASCADE_ENGINE_BASE_CHECKSUM_H_
