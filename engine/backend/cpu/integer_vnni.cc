// The integer kernels with AVX-512 VNNI: one instruction multiplies 4 levels of 16 channels. The
// sums of a tile stay in registers over all inputs.
#include <immintrin.h>

#include "engine/backend/cpu/panel_kernels.h"
#include "engine/backend/cpu/vector.h"

namespace kascade::cpu::KASCADE_ISA {
namespace {

constexpr int kSumLanes = 16;

// int4 weights are consumed faster than the hardware prefetcher fetches them, so that they are
// prefetched this many bytes ahead.
constexpr int kAhead = 2048;
KASCADE_INLINE void prefetch(const uint8_t* from) {
  _mm_prefetch(reinterpret_cast<const char*>(from + kAhead), _MM_HINT_T0);
}

KASCADE_INLINE __m512i load_bytes(const uint8_t* from) { return _mm512_loadu_si512(from); }

// sum += products of the 4 unsigned bytes in each lane of `weights` and the 4 signed bytes at
// `levels`. This is inline assembly because with the intrinsic GCC 12 copies the sums, which then
// no longer fit the registers.
KASCADE_INLINE void add_products(__m512i& sum, __m512i weights, const int32_t& levels) {
  asm("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(sum) : "v"(weights), "m"(levels));
}

// The same with 16-bit words: 2 per lane.
KASCADE_INLINE void add_word_products(__m512i& sum, __m512i a, __m512i b) {
  asm("vpdpwssd %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
}

// out (+)= (sum · channel's scale) · row's scale, for the first `channels` lanes.
KASCADE_INLINE void finish(__m512i sum, const float* channel_scales, float row_scale,
                           int32_t channels, float* out, bool add) {
  if (channels <= 0) return;
  const __mmask16 wanted = static_cast<__mmask16>((1u << (channels < 16 ? channels : 16)) - 1);
  const __m512 scaled =
      _mm512_mul_ps(_mm512_cvtepi32_ps(sum), _mm512_maskz_loadu_ps(wanted, channel_scales));
  const __m512 scale = _mm512_set1_ps(row_scale);
  const __m512 result = add ? _mm512_fmadd_ps(scaled, scale, _mm512_maskz_loadu_ps(wanted, out))
                            : _mm512_mul_ps(scaled, scale);
  _mm512_mask_storeu_ps(out, wanted, result);
}

template <int kRows>
void int8_rows(const PanelTile& tile, const Panel& panel, const PanelOut& to) {
  __m512i low[kRows], high[kRows];
#pragma GCC unroll 12
  for (int r = 0; r < kRows; ++r) {
    const int32_t* sums = to.sums + r * kInt8Channels;
    low[r] = panel.begins ? _mm512_set1_epi32(tile.starts[r]) : _mm512_loadu_si512(sums);
    high[r] = panel.begins ? low[r] : _mm512_loadu_si512(sums + kSumLanes);
  }
  const int32_t* x = tile.words;
  const uint8_t* w = panel.weights;
  for (int64_t step = 0; step < panel.blocks; ++step, x += kRows, w += kInt8StepBytes) {
    const __m512i w_low = load_bytes(w), w_high = load_bytes(w + 64);
#pragma GCC unroll 12
    for (int r = 0; r < kRows; ++r) {
      add_products(low[r], w_low, x[r]);
      add_products(high[r], w_high, x[r]);
    }
  }
  if (!panel.ends) {
#pragma GCC unroll 12
    for (int r = 0; r < kRows; ++r) {
      _mm512_storeu_si512(to.sums + r * kInt8Channels, low[r]);
      _mm512_storeu_si512(to.sums + r * kInt8Channels + kSumLanes, high[r]);
    }
    return;
  }
#pragma GCC unroll 12
  for (int r = 0; r < kRows; ++r) {
    float* out = to.out + r * to.stride;
    finish(low[r], panel.scales, tile.scales[r], panel.channels, out, to.add);
    finish(high[r], panel.scales + kSumLanes, tile.scales[r], panel.channels - kSumLanes,
           out + kSumLanes, to.add);
  }
}

// Adds the products of one group of 16 inputs to the sums of kRows rows.
template <int kRows>
KASCADE_INLINE void add_int4_group(const uint8_t* w, const uint8_t* multiples, const int32_t* x,
                                   const int32_t* start, __m512i (&total)[kRows]) {
  const __m512i nibble = _mm512_set1_epi8(15);
  const __m512i low_half = _mm512_set1_epi32(0xffff);
  const __m512i first = load_bytes(w), second = load_bytes(w + 64);
  prefetch(w);
  prefetch(w + 64);
  const __m512i part[4] = {_mm512_and_si512(first, nibble), _mm512_and_si512(second, nibble),
                           _mm512_and_si512(_mm512_srli_epi16(first, 4), nibble),
                           _mm512_and_si512(_mm512_srli_epi16(second, 4), nibble)};
  // The sum of a group fits the lower half of its lane. The upper half is multiplied by 0.
  const __m512i multiple = _mm512_and_si512(
      _mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(multiples))), low_half);
  __m512i sum[kRows];
#pragma GCC unroll 12
  for (int r = 0; r < kRows; ++r) sum[r] = _mm512_set1_epi32(start[r]);
#pragma GCC unroll 4
  for (int p = 0; p < 4; ++p) {
#pragma GCC unroll 12
    for (int r = 0; r < kRows; ++r) add_products(sum[r], part[p], x[p * kRows + r]);
  }
#pragma GCC unroll 12
  for (int r = 0; r < kRows; ++r) add_word_products(total[r], sum[r], multiple);
}

template <int kRows>
void int4_rows(const PanelTile& tile, const Panel& panel, const PanelOut& to) {
  __m512i total[kRows];
#pragma GCC unroll 12
  for (int r = 0; r < kRows; ++r) {
    total[r] =
        panel.begins ? _mm512_setzero_si512() : _mm512_loadu_si512(to.sums + r * kInt4Channels);
  }
  const int32_t* x = tile.words;
  const int32_t* start = tile.starts;
  const uint8_t* w = panel.weights;
  for (int64_t block = 0; block < panel.blocks; ++block) {
    const uint8_t* multiples = w + kInt4BlockGroups * kInt4GroupBytes;
    for (int group = 0; group < kInt4BlockGroups; ++group) {
      add_int4_group<kRows>(w, multiples, x, start, total);
      x += 4 * kRows;
      start += kRows;
      w += kInt4GroupBytes;
      multiples += kInt4Channels;
    }
    w = multiples;
  }
  if (!panel.ends) {
#pragma GCC unroll 12
    for (int r = 0; r < kRows; ++r) _mm512_storeu_si512(to.sums + r * kInt4Channels, total[r]);
    return;
  }
#pragma GCC unroll 12
  for (int r = 0; r < kRows; ++r) {
    finish(total[r], panel.scales, tile.scales[r], panel.channels, to.out + r * to.stride, to.add);
  }
}

using Rows = void (*)(const PanelTile&, const Panel&, const PanelOut&);
constexpr Rows kInt8[kTileRows] = {int8_rows<1>, int8_rows<2>,  int8_rows<3>,  int8_rows<4>,
                                   int8_rows<5>, int8_rows<6>,  int8_rows<7>,  int8_rows<8>,
                                   int8_rows<9>, int8_rows<10>, int8_rows<11>, int8_rows<12>};
constexpr Rows kInt4[kTileRows] = {int4_rows<1>, int4_rows<2>,  int4_rows<3>,  int4_rows<4>,
                                   int4_rows<5>, int4_rows<6>,  int4_rows<7>,  int4_rows<8>,
                                   int4_rows<9>, int4_rows<10>, int4_rows<11>, int4_rows<12>};

void int8_tile(const PanelTile& tile, const Panel& panel, const PanelOut& out) {
  kInt8[tile.rows - 1](tile, panel, out);
}
void int4_tile(const PanelTile& tile, const Panel& panel, const PanelOut& out) {
  kInt4[tile.rows - 1](tile, panel, out);
}

KASCADE_INLINE __m512 load_some(const float* x, int64_t first, int64_t size) {
  if (first + kSumLanes <= size) return _mm512_loadu_ps(x + first);
  if (first >= size) return _mm512_setzero_ps();
  return _mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << (size - first)) - 1), x + first);
}

// The largest magnitude, or NaN if a value is not finite.
float largest_of(const float* x, int64_t size) {
  __m512 largest = _mm512_setzero_ps();
  __mmask16 endless = 0;
  const __m512 most = _mm512_set1_ps(__FLT_MAX__);
  for (int64_t i = 0; i < size; i += kSumLanes) {
    const __m512 magnitude = _mm512_abs_ps(load_some(x, i, size));
    endless |= _mm512_cmp_ps_mask(magnitude, most, _CMP_NLE_UQ);
    largest = _mm512_max_ps(largest, magnitude);
  }
  return endless != 0 ? __builtin_nanf("") : _mm512_reduce_max_ps(largest);
}

float quantize(const float* x, int64_t size, const IntegerRow& row) {
  const float largest = largest_of(x, size);
  const bool usable = largest >= 0x1p-100f;
  const __m512 inverse = _mm512_set1_ps(usable ? 127.0f / largest : 0.0f);
  const __mmask16 kept = usable ? 0xffff : 0;
  __m512i sum = _mm512_setzero_si512();
  int32_t* start = row.starts;
  for (int64_t i = 0; i < row.padded; i += kSumLanes) {
    const __m512 scaled = _mm512_maskz_mul_ps(kept, load_some(x, i, size), inverse);
    const __m512i levels = _mm512_cvtps_epi32(scaled);
    const __m128i bytes = _mm512_cvtepi32_epi8(levels);
    int32_t* to = row.words + i / 4 * row.rows;
    to[0] = _mm_extract_epi32(bytes, 0);
    to[row.rows] = _mm_extract_epi32(bytes, 1);
    to[2 * row.rows] = _mm_extract_epi32(bytes, 2);
    to[3 * row.rows] = _mm_extract_epi32(bytes, 3);
    sum = _mm512_add_epi32(sum, levels);
    const int64_t end = i + kSumLanes;
    if (end % row.sum_length == 0 || end == row.padded) {
      *start = -row.offset * _mm512_reduce_add_epi32(sum);
      start += row.rows;
      sum = _mm512_setzero_si512();
    }
  }
  if (usable) return largest / 127.0f;
  return largest < 0x1p-100f ? 0.0f : largest;
}

}  // namespace

extern const IntegerKernels integer_kernels;
const IntegerKernels integer_kernels = {"avx512vnni", quantize, int8_tile, int4_tile};

}  // namespace kascade::cpu::KASCADE_ISA
