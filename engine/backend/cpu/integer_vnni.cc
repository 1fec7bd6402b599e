// The integer kernels with AVX-512 VNNI: one instruction multiplies 4 levels of 16 channels. The
// sums of a tile stay in registers over all inputs.
#if defined(__GNUC__) && !defined(__clang__)
// GCC 12 takes the undefined register in its own definitions of instructions for a mistake.
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif
#include <immintrin.h>

#include "engine/backend/cpu/block_kernels.h"
#include "engine/backend/cpu/int4_search.h"
#include "engine/backend/cpu/rotation.h"
#include "engine/backend/cpu/vnni.h"
#include "engine/backend/quantization.h"

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

// Keeps the sums of a row, or scales them and writes or adds them to its output.
KASCADE_INLINE void finish_both(__m512i low, __m512i high, float row_scale, const Panel& panel,
                                int row, const PanelOut& to) {
  if (!panel.ends) {
    _mm512_storeu_si512(to.sums + row * kInt8Channels, low);
    _mm512_storeu_si512(to.sums + row * kInt8Channels + kSumLanes, high);
    return;
  }
  float* out = to.out + row * to.stride;
  finish(low, panel.scales, row_scale, panel.channels, out, to.add);
  finish(high, panel.scales + kSumLanes, row_scale, panel.channels - kSumLanes, out + kSumLanes,
         to.add);
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
#pragma GCC unroll 12
  for (int r = 0; r < kRows; ++r) {
    finish_both(low[r], high[r], tile.scales[r], panel, r, to);
  }
}

// The tables of kInt4Levels and of the multiples, by their codes.
KASCADE_INLINE __m512i level_table(int32_t offset) {
  int8_t bytes[16];
  for (int i = 0; i < 16; ++i) bytes[i] = static_cast<int8_t>(kInt4Levels[i] + offset);
  return _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes)));
}
KASCADE_INLINE __m512i multiple_table(bool both_halves) {
  const __m512i code = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3, 4, 5, 6, 7);
  const __m512i size = _mm512_add_epi32(code, _mm512_set1_epi32(kInt4LeastMultiple));
  const __m512i multiple = _mm512_mask_sub_epi32(size, 0xff00, _mm512_setzero_si512(), size);
  const __m512i low = _mm512_and_si512(multiple, _mm512_set1_epi32(0xffff));
  return both_halves ? _mm512_or_si512(low, _mm512_slli_epi32(low, 16)) : low;
}

// The levels of 16 channels, plus the table's offset: inputs 0 … 3 and 4 … 7 of the group.
struct Int4Levels {
  __m512i first;
  __m512i second;
};
KASCADE_INLINE Int4Levels int4_levels(const uint8_t* w, __m512i table) {
  const __m512i nibble = _mm512_set1_epi8(15), bytes = load_bytes(w);
  return {_mm512_shuffle_epi8(table, _mm512_and_si512(bytes, nibble)),
          _mm512_shuffle_epi8(table, _mm512_and_si512(_mm512_srli_epi16(bytes, 4), nibble))};
}

// One group of 16 channels and kRows rows. The sum of a group fits the lower half of its lane; the
// upper half is multiplied by 0.
template <int kRows>
KASCADE_INLINE void add_int4_group(const Int4Levels& levels, __m512i multiple, const int32_t* x,
                                   const int32_t* starts, __m512i* total) {
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
    __m512i sum = _mm512_set1_epi32(starts[r]);
    add_products(sum, levels.first, x[r]);
    add_products(sum, levels.second, x[kRows + r]);
    add_word_products(total[r], sum, multiple);
  }
}

template <int kRows>
void int4_rows(const PanelTile& tile, const Panel& panel, const PanelOut& to) {
  const __m512i levels = level_table(kInt4Offset), multiples = multiple_table(false);
  __m512i low[kRows], high[kRows];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
    const int32_t* sums = to.sums + r * kInt4Channels;
    low[r] = panel.begins ? _mm512_setzero_si512() : _mm512_loadu_si512(sums);
    high[r] = panel.begins ? low[r] : _mm512_loadu_si512(sums + kSumLanes);
  }
  const int32_t* x = tile.words;
  const int32_t* starts = tile.starts;
  const uint8_t* w = panel.weights;
  for (int64_t block = 0; block < panel.blocks; ++block) {
    const uint8_t* codes = w + kInt4BlockGroups * kInt4GroupBytes;
    prefetch_group<kInt4MultipleBytes>(codes);
    __m512i low_codes = load_bytes(codes), high_codes = load_bytes(codes + 64);

#pragma GCC unroll 8
    for (int group = 0; group < kInt4BlockGroups; ++group) {
      prefetch_group<kInt4GroupBytes>(w);
      add_int4_group<kRows>(int4_levels(w, levels), _mm512_permutexvar_epi32(low_codes, multiples),
                            x, starts, low);
      add_int4_group<kRows>(int4_levels(w + 64, levels),
                            _mm512_permutexvar_epi32(high_codes, multiples), x, starts, high);
      low_codes = _mm512_srli_epi32(low_codes, 4);
      high_codes = _mm512_srli_epi32(high_codes, 4);
      x += 2 * kRows;
      starts += kRows;
      w += kInt4GroupBytes;
    }
    w += kInt4MultipleBytes;
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
    finish_both(low[r], high[r], tile.scales[r], panel, r, to);
  }
}

// level · multiple + kInt8Offset. The product of the even bytes is the lower byte of a product of
// words, that of the odd bytes the upper byte.
KASCADE_INLINE __m512i int8_of(__m512i levels, __m512i multiples) {
  const __m512i low_bytes = _mm512_set1_epi16(0x00ff);
  const __m512i even = _mm512_mullo_epi16(levels, multiples);
  const __m512i odd = _mm512_mullo_epi16(_mm512_andnot_si512(low_bytes, levels), multiples);
  const __m512i both = _mm512_or_si512(_mm512_and_si512(even, low_bytes), odd);
  return _mm512_xor_si512(both, _mm512_set1_epi8(-128));
}

void unpack_int4(const uint8_t* w, int64_t blocks, uint8_t* to) {
  const __m512i table = level_table(0), multiples = multiple_table(true);
  for (int64_t block = 0; block < blocks; ++block) {
    const uint8_t* code_bytes = w + kInt4BlockGroups * kInt4GroupBytes;
    __m512i codes[2] = {load_bytes(code_bytes), load_bytes(code_bytes + 64)};
    prefetch_group<kInt4MultipleBytes>(code_bytes);
    for (int group = 0; group < kInt4BlockGroups; ++group) {
      prefetch_group<kInt4GroupBytes>(w);
#pragma GCC unroll 2
      for (int half = 0; half < 2; ++half, w += 64, to += 64) {
        const Int4Levels levels = int4_levels(w, table);
        const __m512i multiple = _mm512_permutexvar_epi32(codes[half], multiples);
        _mm512_storeu_si512(to, int8_of(levels.first, multiple));
        _mm512_storeu_si512(to + kInt8StepBytes, int8_of(levels.second, multiple));
        codes[half] = _mm512_srli_epi32(codes[half], 4);
      }
      to += kInt8StepBytes;
    }
    w += kInt4MultipleBytes;
  }
}

using Rows = void (*)(const PanelTile&, const Panel&, const PanelOut&);
constexpr Rows kInt8[kTileRows] = {int8_rows<1>, int8_rows<2>,  int8_rows<3>,  int8_rows<4>,
                                   int8_rows<5>, int8_rows<6>,  int8_rows<7>,  int8_rows<8>,
                                   int8_rows<9>, int8_rows<10>, int8_rows<11>, int8_rows<12>};
constexpr Rows kInt4[kInt4DirectRows] = {int4_rows<1>, int4_rows<2>, int4_rows<3>, int4_rows<4>,
                                         int4_rows<5>, int4_rows<6>, int4_rows<7>, int4_rows<8>};

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
const IntegerKernels integer_kernels = {"avx512vnni",    rotate,        quantize,
                                        quantize_groups, quantize_int4, int8_tile,
                                        int4_tile,       unpack_int4,   kBlockKernels};

}  // namespace kascade::cpu::KASCADE_ISA
