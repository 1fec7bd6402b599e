// The memory layouts of packed weights: panels of 16 or 32 output channels, in which the weights of
// one input (or of four) lie side by side, as the kernels of panel_kernels.h read them.
#ifndef KASCADE_ENGINE_BACKEND_CPU_PANEL_LAYOUT_H_
#define KASCADE_ENGINE_BACKEND_CPU_PANEL_LAYOUT_H_

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "engine/backend/block_formats.h"
#include "engine/backend/tensor.h"

namespace kascade::cpu {

enum class PanelFormat {
  kBF16,
  kInt8,
  kInt4,
  kQ8_0,
  kQ4_0,
  kQ4_1,
  kQ5_0,
  kQ5_1,
  kQ4_K,
  kQ5_K,
  kQ6_K
};

constexpr bool has_blocks(PanelFormat format) { return format >= PanelFormat::kQ8_0; }
// The format of panels that hold the blocks of this dtype.
constexpr PanelFormat panel_format_of(DType blocks) {
  return static_cast<PanelFormat>(static_cast<int>(PanelFormat::kQ8_0) + static_cast<int>(blocks) -
                                  static_cast<int>(DType::kQ8_0));
}
constexpr DType block_dtype_of(PanelFormat format) {
  return static_cast<DType>(static_cast<int>(DType::kQ8_0) + static_cast<int>(format) -
                            static_cast<int>(PanelFormat::kQ8_0));
}

constexpr int64_t kAllInputs = int64_t{1} << 40;

struct PanelLayout {
  int64_t channels = 0;      // channels per panel
  int64_t block_inputs = 1;  // inputs are padded to a multiple of this
  int64_t block_bytes = 0;
  int64_t word_inputs = 4;            // inputs of x in a 32-bit word
  int64_t sum_length = kAllInputs;    // inputs whose products are summed before they are scaled
  int64_t start_length = kAllInputs;  // inputs per entry of PanelTile::starts
  int64_t scale_length = kAllInputs;  // inputs per entry of PanelTile::scales
  int32_t offset = 0;                 // of the levels
  bool channel_scales = false;        // whether a scale of each channel follows the panels
};

PanelLayout panel_layout_of(PanelFormat format);

// The name and version of each packed form (Backend::packed_form).
std::string form_name(PanelFormat format);

// Each writes one channel to its place in the panel and leaves the other channels as they are.
// `levels` and `multiples` are those of engine/backend/quantization.h.
void put_bf16(const float* values, int64_t inputs, int64_t channel, uint8_t* panel);
void put_int8(const int8_t* levels, int64_t inputs, int64_t channel, uint8_t* panel);
void put_int4(const std::vector<int8_t>& levels, const std::vector<int8_t>& multiples,
              int64_t channel, uint8_t* panel);
void put_blocks(DType dtype, const BlockRow& row, int64_t channel, uint8_t* panel);

}  // namespace kascade::cpu

#endif  // KASCADE_ENGINE_BACKEND_CPU_PANEL_LAYOUT_H_
