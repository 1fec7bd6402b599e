// The integer kernels with AVX-512 VNNI: one instruction multiplies 4 levels of 16 channels. The
// sums of a tile stay in registers over all inputs.
#include <immintrin.h>

#include "engine/backend/cpu/block_kernels.h"
#include "engine/backend/cpu/int4_search.h"
#include "engine/backend/cpu/rotation.h"
#include "engine/backend/cpu/vnni.h"

namespace kascade::cpu::KASCADE_ISA {
namespace {

// The same with 16-bit words: 2 per lane.
KASCADE_INLINE void add_word_products(__m512i& sum, __m512i a, __m512i b) {
  asm("vpdpwssd %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
}

// out (+)= (sum · channel's scale) · row's scale, for the first `channels` lanes.
KASCADE_INLINE void finish(__m512i sum, const float* channel_scales, float row_scale,
                           int32_t channels, float* out, bool add) {
  if (channels <= 0) return;
  const __mmask16 wanted = first_lanes(channels);
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

float quantize(const float* x, int64_t size, const IntegerRow& row) {
  return quantize_counting(x, size, row).scale;
}

}  // namespace

extern const IntegerKernels integer_kernels;
const IntegerKernels integer_kernels = {"avx512vnni",  rotate,    quantize,  quantize_groups,
                                        quantize_int4, int8_tile, int4_tile, kBlockKernels};

}  // namespace kascade::cpu::KASCADE_ISA
