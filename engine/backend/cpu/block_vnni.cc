// The kernels for GGUF's blocks with AVX-512 VNNI. For each group of 32 inputs, the products of a
// tile are summed as integers in registers, scaled, and added to f32 sums that stay in registers as
// well.
#include <immintrin.h>

#include "engine/backend/cpu/block_kernels.h"
#include "engine/backend/cpu/vnni.h"

namespace kascade::cpu::KASCADE_ISA {
namespace {

KASCADE_INLINE __m512 load_halves(const uint8_t* from) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
}
KASCADE_INLINE __m128i load_16(const uint8_t* from) {
  return _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
}

// The levels of the inputs 4 · kPart … 4 · kPart + 3 of all channels.
template <int kBits, int kPart>
KASCADE_INLINE __m512i levels_of(const uint8_t* w) {
  if constexpr (kBits == 8) return load_bytes(w + 64 * kPart);
  const __m512i both = load_bytes(w + 64 * (kPart % 4));
  const __m512i half = kPart < 4 ? both : _mm512_srli_epi16(both, 4);
  const __m512i low = _mm512_and_si512(half, _mm512_set1_epi8(15));
  if constexpr (kBits == 4) return low;
  constexpr int kHigh = kBits == 5 ? 0 : kPart / 4;
  constexpr int kShift = kBits == 5 ? 4 - kPart : 4 - 2 * (kPart % 4);
  const __m512i bits = load_bytes(w + kBlockNibbleBytes + 64 * kHigh);
  const __m512i moved = kShift >= 0 ? _mm512_slli_epi16(bits, kShift > 0 ? kShift : 0)
                                    : _mm512_srli_epi16(bits, kShift < 0 ? -kShift : 0);
  return _mm512_or_si512(low, _mm512_and_si512(moved, _mm512_set1_epi8(kBits == 5 ? 16 : 48)));
}

// Scales and minima of a block and of its groups, for 16 channels.
struct Scales {
  __m512 scale;
  __m512 minimum;
};

template <DType kType>
KASCADE_INLINE Scales header_scales(const uint8_t* w) {
  constexpr BlockFormat kFormat = block_format_of(kType);
  return {load_halves(w), kFormat.minima ? load_halves(w + 32) : _mm512_setzero_ps()};
}

// The scales of the group, and in Q6_K those of its half kHalf.
template <DType kType, int kHalf>
KASCADE_INLINE Scales group_scales(const uint8_t* w, const Scales& header) {
  constexpr BlockFormat kFormat = block_format_of(kType);
  if constexpr (!kFormat.multiples) return header_scales<kType>(w);
  const __m128i bytes = load_16(w + 16 * kHalf);
  if constexpr (!kFormat.minima) {
    const __m512 multiple = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes));
    return {_mm512_mul_ps(header.scale, multiple), _mm512_setzero_ps()};
  }
  const __m512i both = _mm512_cvtepu8_epi32(bytes);
  const __m512i multiple = _mm512_and_si512(both, _mm512_set1_epi32(63));
  const __m128i packed = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(w + 16));
  const __m128i nibble = _mm_set1_epi8(15);
  const __m128i high = _mm_unpacklo_epi64(_mm_and_si128(packed, nibble),
                                          _mm_and_si128(_mm_srli_epi16(packed, 4), nibble));
  const __m512i minimum =
      _mm512_or_si512(_mm512_srli_epi32(both, 6), _mm512_slli_epi32(_mm512_cvtepu8_epi32(high), 2));
  const __m512 product = _mm512_mul_ps(header.minimum, _mm512_cvtepi32_ps(minimum));
  return {_mm512_mul_ps(header.scale, _mm512_cvtepi32_ps(multiple)),
          _mm512_sub_ps(_mm512_setzero_ps(), product)};
}

// sum[r] = the sums of kCount parts from kFirst on.
template <int kBits, int kFirst, int kCount, int kRows>
KASCADE_INLINE void sum_parts(const uint8_t* w, const int32_t* x, const int32_t* starts,
                              __m512i (&sum)[kRows]) {
#pragma GCC unroll 12
  for (int r = 0; r < kRows; ++r) {
    sum[r] = starts == nullptr ? _mm512_setzero_si512() : _mm512_set1_epi32(starts[r]);
  }
  const auto add = [&](__m512i levels, const int32_t* words) KASCADE_LAMBDA_INLINE {
#pragma GCC unroll 12
    for (int r = 0; r < kRows; ++r) add_products(sum[r], levels, words[r]);
  };
  x += kFirst * kRows;
  add(levels_of<kBits, kFirst>(w), x);
  add(levels_of<kBits, kFirst + 1>(w), x + kRows);
  add(levels_of<kBits, kFirst + 2>(w), x + 2 * kRows);
  add(levels_of<kBits, kFirst + 3>(w), x + 3 * kRows);
  if constexpr (kCount == 8) {
    add(levels_of<kBits, kFirst + 4>(w), x + 4 * kRows);
    add(levels_of<kBits, kFirst + 5>(w), x + 5 * kRows);
    add(levels_of<kBits, kFirst + 6>(w), x + 6 * kRows);
    add(levels_of<kBits, kFirst + 7>(w), x + 7 * kRows);
  }
}

// Where a tile of kRows rows is in its inputs.
struct Place {
  const int32_t* x;
  const int32_t* starts;
  const float* scales;
  const float* level_sums;
};

template <DType kType, int kRows>
KASCADE_INLINE void add_group(const uint8_t* w, const Scales& header, const Place& at,
                              __m512 (&total)[kRows]) {
  constexpr BlockFormat kFormat = block_format_of(kType);
  const uint8_t* scales = w + block_level_bytes(kFormat.bits);
  const Scales first = group_scales<kType, 0>(scales, header);
  __m512i sum[kRows];
  if constexpr (kFormat.group == kBlockGroup) {
    sum_parts<kFormat.bits, 0, 8>(w, at.x, kFormat.minima ? nullptr : at.starts, sum);
#pragma GCC unroll 12
    for (int r = 0; r < kRows; ++r) {
      const __m512 term = _mm512_mul_ps(_mm512_cvtepi32_ps(sum[r]), first.scale);
      total[r] = _mm512_fmadd_ps(term, _mm512_set1_ps(at.scales[r]), total[r]);
    }
  } else {
    const Scales second = group_scales<kType, 1>(scales, header);
    __m512 term[kRows];
    sum_parts<kFormat.bits, 0, 4>(w, at.x, at.starts, sum);
#pragma GCC unroll 12
    for (int r = 0; r < kRows; ++r)
      term[r] = _mm512_mul_ps(_mm512_cvtepi32_ps(sum[r]), first.scale);
    sum_parts<kFormat.bits, 4, 4>(w, at.x, at.starts + kRows, sum);
#pragma GCC unroll 12
    for (int r = 0; r < kRows; ++r) {
      term[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[r]), second.scale, term[r]);
      total[r] = _mm512_fmadd_ps(term[r], _mm512_set1_ps(at.scales[r]), total[r]);
    }
  }
  if constexpr (kFormat.minima) {
#pragma GCC unroll 12
    for (int r = 0; r < kRows; ++r) {
      total[r] = _mm512_fmadd_ps(first.minimum, _mm512_set1_ps(at.level_sums[r]), total[r]);
    }
  }
}

template <DType kType, int kRows>
void block_rows(const PanelTile& tile, const Panel& panel, const PanelOut& to) {
  constexpr BlockFormat kFormat = block_format_of(kType);
  constexpr int64_t kGroups = block_size_of(kType).inputs / kBlockGroup;
  constexpr int64_t kGroupBytes = block_level_bytes(kFormat.bits) + block_scale_bytes(kFormat);
  auto* sums = reinterpret_cast<float*>(to.sums);
  __m512 total[kRows];
#pragma GCC unroll 12
  for (int r = 0; r < kRows; ++r) {
    total[r] = panel.begins ? _mm512_setzero_ps() : _mm512_loadu_ps(sums + r * kBlockChannels);
  }
  Place at{tile.words, tile.starts, tile.scales, tile.level_sums};
  const uint8_t* w = panel.weights;
  for (int64_t block = 0; block < panel.blocks; ++block) {
    Scales header{};
    if constexpr (kFormat.multiples) header = header_scales<kType>(w);
    w += block_header_bytes(kFormat);
    for (int64_t group = 0; group < kGroups; ++group, w += kGroupBytes) {
      prefetch_group<kGroupBytes>(w);
      add_group<kType, kRows>(w, header, at, total);
      at.x += 8 * kRows;
      at.starts += kBlockGroup / kFormat.group * kRows;
      at.scales += kRows;
      at.level_sums += kRows;
    }
  }
#pragma GCC unroll 12
  for (int r = 0; r < kRows; ++r) {
    if (!panel.ends) {
      _mm512_storeu_ps(sums + r * kBlockChannels, total[r]);
      continue;
    }
    const __mmask16 wanted = first_lanes(panel.channels);
    float* out = to.out + r * to.stride;
    if (to.add) total[r] = _mm512_add_ps(_mm512_maskz_loadu_ps(wanted, out), total[r]);
    _mm512_mask_storeu_ps(out, wanted, total[r]);
  }
}

template <DType kType>
void block_tile(const PanelTile& tile, const Panel& panel, const PanelOut& out) {
  constexpr PanelKernel kKernels[kTileRows] = {
      block_rows<kType, 1>, block_rows<kType, 2>,  block_rows<kType, 3>,  block_rows<kType, 4>,
      block_rows<kType, 5>, block_rows<kType, 6>,  block_rows<kType, 7>,  block_rows<kType, 8>,
      block_rows<kType, 9>, block_rows<kType, 10>, block_rows<kType, 11>, block_rows<kType, 12>};
  kKernels[tile.rows - 1](tile, panel, out);
}

}  // namespace

const PanelKernel kBlockKernels[kBlockDTypes] = {
    block_tile<DType::kQ8_0>, block_tile<DType::kQ4_0>, block_tile<DType::kQ4_1>,
    block_tile<DType::kQ5_0>, block_tile<DType::kQ5_1>, block_tile<DType::kQ4_K>,
    block_tile<DType::kQ5_K>, block_tile<DType::kQ6_K>};

void quantize_groups(const float* x, int64_t size, const GroupedRow& row) {
  quantize_each_group(x, size, row, quantize_counting);
}

}  // namespace kascade::cpu::KASCADE_ISA
