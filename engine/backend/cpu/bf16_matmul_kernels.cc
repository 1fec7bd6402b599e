// Matrix products of bf16 rows and weights with the bf16 dot product: one instruction multiplies 2
// inputs of 16 channels. The sums of a tile stay in registers over all inputs.
#include "engine/backend/cpu/bf16_vector.h"
#include "engine/backend/cpu/panel_kernels.h"

namespace kascade::cpu::KASCADE_ISA {
namespace {

// sum += the pairs of `weights` times the pair at `x`. This is inline assembly because with the
// intrinsic GCC 12 copies the sums, which then no longer fit the registers.
KASCADE_INLINE void add_products_of(Vec& sum, PairVec weights, const int32_t& x) {
  asm("vdpbf16ps %2%{1to16%}, %1, %0" : "+v"(sum) : "v"(weights), "m"(x));
}

// out (+)= sum, for the first `channels` lanes.
KASCADE_INLINE void finish(Vec sum, int32_t channels, float* out, bool add) {
  const __mmask16 wanted = first_lanes(channels);
  if (add) sum += _mm512_maskz_loadu_ps(wanted, out);
  _mm512_mask_storeu_ps(out, wanted, sum);
}

template <int kRows>
void multiply_rows(const PanelTile& tile, const Panel& panel, const PanelOut& to) {
  Vec low[kRows] = {}, high[kRows] = {};
  auto* sums = reinterpret_cast<float*>(to.sums);
  if (!panel.begins) {
#pragma GCC unroll 12
    for (int r = 0; r < kRows; ++r) {
      low[r] = load(sums + r * kBf16Channels);
      high[r] = load(sums + r * kBf16Channels + kLanes);
    }
  }
  const int32_t* x = tile.words;
  const uint8_t* w = panel.weights;
  for (int64_t step = 0; step < panel.blocks; ++step, x += kRows, w += kBf16StepBytes) {
    const PairVec w_low = load_pairs(w), w_high = load_pairs(w + 64);
#pragma GCC unroll 12
    for (int r = 0; r < kRows; ++r) {
      add_products_of(low[r], w_low, x[r]);
      add_products_of(high[r], w_high, x[r]);
    }
  }
  if (!panel.ends) {
#pragma GCC unroll 12
    for (int r = 0; r < kRows; ++r) {
      store(sums + r * kBf16Channels, low[r]);
      store(sums + r * kBf16Channels + kLanes, high[r]);
    }
    return;
  }
#pragma GCC unroll 12
  for (int r = 0; r < kRows; ++r) {
    float* out = to.out + r * to.stride;
    finish(low[r], panel.channels, out, to.add);
    if (panel.channels > kLanes) finish(high[r], panel.channels - kLanes, out + kLanes, to.add);
  }
}

using Rows = void (*)(const PanelTile&, const Panel&, const PanelOut&);
constexpr Rows kMultiply[kTileRows] = {multiply_rows<1>,  multiply_rows<2>,  multiply_rows<3>,
                                       multiply_rows<4>,  multiply_rows<5>,  multiply_rows<6>,
                                       multiply_rows<7>,  multiply_rows<8>,  multiply_rows<9>,
                                       multiply_rows<10>, multiply_rows<11>, multiply_rows<12>};

void multiply(const PanelTile& tile, const Panel& panel, const PanelOut& out) {
  kMultiply[tile.rows - 1](tile, panel, out);
}

void to_pairs(const float* x, int64_t size, int32_t rows, int32_t* words) {
  for (int64_t i = 0; i < size; i += kHalves) {
    alignas(64) int32_t pairs[kLanes];
    store_pairs(pairs,
                narrow(_mm512_maskz_loadu_ps(first_lanes(size - i), x + i),
                       _mm512_maskz_loadu_ps(first_lanes(size - i - kLanes), x + i + kLanes)));
    for (int lane = 0; lane < kLanes; ++lane) words[(i / 2 + lane) * rows] = pairs[lane];
  }
}

}  // namespace

extern const Bf16Kernels bf16_kernels;
const Bf16Kernels bf16_kernels = {"avx512bf16", to_pairs, multiply};

}  // namespace kascade::cpu::KASCADE_ISA
