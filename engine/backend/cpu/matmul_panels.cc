#include "engine/backend/cpu/matmul_panels.h"

#include <algorithm>
#include <cstring>
#include <string_view>
#include <utility>
#include <vector>

#include "engine/backend/cpu/channels.h"
#include "engine/backend/host/host_buffer.h"
#include "engine/backend/quantization.h"
#include "engine/base/check.h"

namespace kascade::cpu {
namespace {

// The size of a task. With few rows a task has at least kTaskBytes of weights; with many rows it
// has kTaskPanels panels and at most kTaskTiles tiles of rows. Tasks are small enough to be shared
// out evenly when other processes use a core, and large enough for data in the core's cache to be
// reused many times.
constexpr int64_t kTaskBytes = int64_t{64} << 10;
constexpr int64_t kTaskPanels = 4;
constexpr int64_t kTaskTiles = 8;
// Inputs that are multiplied at a time so that the data stay in cache: this many inputs of 8 tiles
// in bf16 take 384 KiB, those of a panel 128 KiB.
constexpr int64_t kCachedInputs = 2048;
// Rows of x that one task quantises or rounds.
constexpr int64_t kTaskRows = 16;
// The inputs of x are padded to a multiple of this, which suits the blocks of every format.
constexpr int64_t kPaddedInputs = 64;

constexpr int64_t round_up(int64_t value, int64_t to) { return (value + to - 1) / to * to; }
constexpr int64_t divided_up(int64_t value, int64_t by) { return (value + by - 1) / by; }

// The memory layout of a weight format.
struct Layout {
  int64_t channels;      // channels per panel
  int64_t block_inputs;  // inputs are padded to a multiple of this
  int64_t block_bytes;
  int64_t word_inputs;   // inputs of x in a 32-bit word
  int64_t sum_length;    // inputs whose products are summed before they are scaled
  int64_t start_length;  // inputs per entry of PanelTile::starts
  int32_t offset;
};

constexpr int64_t kAllInputs = int64_t{1} << 40;

Layout layout_of(WeightFormat format) {
  if (format == WeightFormat::kBF16) {
    return {kBf16Channels, kBf16Step, kBf16StepBytes, 2, kAllInputs, kAllInputs, 0};
  }
  if (format == WeightFormat::kInt8) {
    return {kInt8Channels,  kInt8Step,      kInt8StepBytes, 4,
            kInt8SumLength, kInt8SumLength, kInt8Offset};
  }
  KASCADE_CHECK(format == WeightFormat::kInt4);
  return {kInt4Channels,  kInt4BlockInputs, kInt4BlockBytes, 4,
          kInt4SumLength, kInt4Group,       kInt4Offset};
}

// The name and version of each packed form. Whoever changes a panel or what surrounds it must
// increase the version, because files of packed weights outlive the program (Backend::packed_form).
std::string_view form_name(WeightFormat format) {
  switch (format) {
    case WeightFormat::kBF16:
      return "bf16-panels-1";
    case WeightFormat::kInt8:
      return "int8-panels-1";
    default:
      return "int4-panels-1";
  }
}

// Writes one channel to its place in the panel and leaves the other channels as they are.
void put_bf16(const float* values, int64_t inputs, int64_t channel, uint8_t* panel) {
  uint16_t* pair = reinterpret_cast<uint16_t*>(panel) + channel * kBf16Step;
  for (int64_t input = 0; input < inputs; ++input) {
    pair[input % kBf16Step] = to_bf16(values[input]);
    if (input % kBf16Step == kBf16Step - 1) pair += kBf16Channels * kBf16Step;
  }
}

void put_int8(const int8_t* levels, int64_t inputs, int64_t channel, uint8_t* panel) {
  for (int64_t input = 0; input < inputs; ++input) {
    panel[input / kInt8Step * kInt8StepBytes + channel * kInt8Step + input % kInt8Step] =
        static_cast<uint8_t>(levels[input] + kInt8Offset);
  }
}

void put_int4(const std::vector<int8_t>& levels, const std::vector<int8_t>& multiples,
              int64_t channel, uint8_t* panel) {
  for (size_t g = 0; g < multiples.size(); ++g) {
    const auto group = static_cast<int64_t>(g);
    uint8_t* block = panel + group / kInt4BlockGroups * kInt4BlockBytes;
    const int64_t in_block = group % kInt4BlockGroups;
    block[kInt4BlockGroups * kInt4GroupBytes + in_block * kInt4Channels + channel] =
        static_cast<uint8_t>(multiples[g]);
    uint8_t* bytes = block + in_block * kInt4GroupBytes + channel * 4;
    const int8_t* from = levels.data() + group * kInt4Group;
    for (int64_t i = 0; i < kInt4Group / 2; ++i) {
      const int low = from[i] + kInt4Offset, high = from[i + kInt4Group / 2] + kInt4Offset;
      bytes[i / 4 * 64 + i % 4] = static_cast<uint8_t>(low | (high << 4));
    }
  }
}

// Divides the rows of x into tiles whose heights differ by at most one.
struct Tiling {
  explicit Tiling(int64_t row_count)
      : rows(row_count), tiles(divided_up(row_count, int64_t{kTileRows})) {}
  int64_t first(int64_t tile) const { return rows * tile / tiles; }
  int64_t tile_of(int64_t row) const { return ((row + 1) * tiles - 1) / rows; }
  int64_t rows;
  int64_t tiles;
};

int32_t* grown(HostBuffer& buffer, int64_t count) {
  if (buffer.bytes() < count * size_of(DType::kI32)) buffer = HostBuffer(DType::kI32, 1, count);
  KASCADE_CHECK(buffer.view().data != nullptr);
  return buffer.view().row<int32_t>(0);
}

}  // namespace

// All panels one after another, followed by the scales of all channels, including the padding
// channels of the last panel.
class MatmulPanels::PanelMatrix final : public Matrix {
 public:
  struct Size {
    Size(const Layout& layout, int64_t out_features, int64_t in_features)
        : panels(divided_up(out_features, layout.channels)),
          panel_bytes(divided_up(in_features, layout.block_inputs) * layout.block_bytes),
          bytes(panels * (panel_bytes + layout.channels * size_of(DType::kF32))) {}
    int64_t panels;
    int64_t panel_bytes;
    int64_t bytes;
  };

  // Makes a matrix with uninitialised memory of its own.
  PanelMatrix(WeightFormat format, int64_t out_features, int64_t in_features)
      : PanelMatrix(format, out_features, in_features,
                    Size(layout_of(format), out_features, in_features)) {
    storage_ = HostBuffer(DType::kF32, 1, bytes() / size_of(DType::kF32));
    data_ = storage_.view().row<uint8_t>(0);
    KASCADE_CHECK(data_ != nullptr);
  }
  PanelMatrix(WeightFormat format, int64_t out_features, int64_t in_features,
              std::span<const std::byte> packed)
      : PanelMatrix(format, out_features, in_features,
                    Size(layout_of(format), out_features, in_features)) {
    KASCADE_CHECK(static_cast<int64_t>(packed.size()) == bytes());
    data_ = reinterpret_cast<const uint8_t*>(packed.data());
  }

  WeightFormat format() const { return format_; }
  const Layout& layout() const { return layout_; }
  int64_t panels() const { return size_.panels; }
  int64_t panel_bytes() const { return size_.panel_bytes; }
  const uint8_t* panel(int64_t index) const { return data_ + index * size_.panel_bytes; }
  const float* scales(int64_t index) const {
    return reinterpret_cast<const float*>(panel(size_.panels)) + index * layout_.channels;
  }
  std::span<const std::byte> packed() const override {
    return {reinterpret_cast<const std::byte*>(data_), static_cast<size_t>(bytes())};
  }

  // Only for a matrix with memory of its own.
  uint8_t* panel_to_fill(int64_t index) const {
    return storage_.view().row<uint8_t>(0) + index * size_.panel_bytes;
  }
  float* scales_to_fill(int64_t index) const {
    return reinterpret_cast<float*>(panel_to_fill(size_.panels)) + index * layout_.channels;
  }

 private:
  PanelMatrix(WeightFormat format, int64_t out_features, int64_t in_features, const Size& size)
      : Matrix(out_features, in_features, size.bytes),
        format_(format),
        layout_(layout_of(format)),
        size_(size) {}

  WeightFormat format_;
  Layout layout_;
  Size size_;
  HostBuffer storage_{};
  const uint8_t* data_ = nullptr;  // in storage_, or in memory that adopt() was given
};

PackedForm MatmulPanels::packed_form(int64_t out_features, int64_t in_features,
                                     WeightFormat format) {
  return {form_name(format), PanelMatrix::Size(layout_of(format), out_features, in_features).bytes};
}

std::unique_ptr<Matrix> MatmulPanels::adopt(std::span<const std::byte> packed, int64_t out_features,
                                            int64_t in_features, WeightFormat format) {
  return std::make_unique<PanelMatrix>(format, out_features, in_features, packed);
}

// The rows of a product in the form that the kernels read, tile after tile (PanelTile).
struct MatmulPanels::Rows {
  Tiling tiling;
  int64_t words_per_row;
  int64_t starts_per_row;
  int32_t* words;
  int32_t* starts;
  float* scales;

  PanelTile tile(int64_t index, const Layout& layout, int64_t first_input) const {
    const int64_t first = tiling.first(index);
    const auto height = static_cast<int32_t>(tiling.first(index + 1) - first);
    return {words + first * words_per_row + first_input / layout.word_inputs * height,
            starts + first * starts_per_row + first_input / layout.start_length * height,
            scales + first, height};
  }
};

std::unique_ptr<Matrix> MatmulPanels::pack(std::span<const Tensor> parts, WeightFormat format) {
  const int64_t out_features = rows_of_all(parts), in_features = parts.front().cols;
  auto matrix = std::make_unique<PanelMatrix>(format, out_features, in_features);
  const int64_t channels = matrix->layout().channels;
  pool_.run(matrix->panels(), [&](int64_t panel, int32_t) {
    uint8_t* to = matrix->panel_to_fill(panel);
    std::memset(to, 0, static_cast<size_t>(matrix->panel_bytes()));
    float* scales = matrix->scales_to_fill(panel);
    std::fill_n(scales, channels, 0.0f);
    std::vector<float> values(static_cast<size_t>(in_features));
    std::vector<int8_t> levels(static_cast<size_t>(round_up(in_features, kInt4Group)));
    std::vector<int8_t> multiples(levels.size() / kInt4Group);
    const int64_t end = std::min((panel + 1) * channels, out_features);
    for (int64_t channel = panel * channels; channel < end; ++channel) {
      const int64_t place = channel - panel * channels;
      float& scale = scales[place];
      read_channel(parts, channel, values.data());
      if (format == WeightFormat::kBF16) {
        put_bf16(values.data(), in_features, place, to);
      } else if (format == WeightFormat::kInt8) {
        scale = quantize_int8(values.data(), in_features, levels.data());
        put_int8(levels.data(), in_features, place, to);
      } else {
        scale = quantize_int4(values.data(), in_features, levels.data(), multiples.data());
        put_int4(levels, multiples, place, to);
      }
    }
  });
  return matrix;
}

void MatmulPanels::prepare_row(const PanelMatrix& w, Tensor x, int64_t row,
                               const Rows& rows) const {
  const Layout& layout = w.layout();
  const int64_t tile = rows.tiling.tile_of(row);
  const PanelTile to = rows.tile(tile, layout, 0);
  const int64_t place = row - rows.tiling.first(tile);
  int32_t* words = const_cast<int32_t*>(to.words) + place;
  if (w.format() == WeightFormat::kBF16) {
    bf16_->to_pairs(x.f32(row), x.cols, to.rows, words);
  } else {
    rows.scales[row] = integer_.quantize(
        x.f32(row), x.cols,
        {words, const_cast<int32_t*>(to.starts) + place, to.rows,
         rows.words_per_row * layout.word_inputs, layout.start_length, layout.offset});
  }
}

// A task: a range of panels by a range of tiles.
struct MatmulPanels::Part {
  int64_t first_panel;
  int64_t last_panel;
  int64_t first_tile;
  int64_t last_tile;
};

// With several tiles, kCachedInputs inputs of each panel are multiplied by all tiles while they are
// in the core's cache; sums that are not complete are kept in `sums`.
void MatmulPanels::multiply(const PanelMatrix& w, const Rows& rows, const Part& part, int32_t* sums,
                            Tensor out, Into into) const {
  const Layout& layout = w.layout();
  const auto kernel = w.format() == WeightFormat::kBF16   ? bf16_->multiply
                      : w.format() == WeightFormat::kInt8 ? integer_.int8
                                                          : integer_.int4;
  const int64_t inputs = round_up(w.in_features(), layout.block_inputs);
  const int64_t tiles = part.last_tile - part.first_tile;
  const int64_t step = tiles == 1 ? layout.sum_length : std::min(kCachedInputs, layout.sum_length);
  for (int64_t input = 0; input < inputs; input += step) {
    const int64_t end = std::min(input + step, inputs);
    const bool begins = input % layout.sum_length == 0;
    const bool ends = end % layout.sum_length == 0 || end == inputs;
    for (int64_t p = part.first_panel; p < part.last_panel; ++p) {
      const int64_t channel = p * layout.channels;
      const Panel panel{w.panel(p) + input / layout.block_inputs * layout.block_bytes,
                        w.scales(p),
                        (end - input) / layout.block_inputs,
                        static_cast<int32_t>(std::min(layout.channels, w.out_features() - channel)),
                        begins,
                        ends};
      for (int64_t t = part.first_tile; t < part.last_tile; ++t) {
        const int64_t place = (p - part.first_panel) * tiles + t - part.first_tile;
        kernel(rows.tile(t, layout, input), panel,
               {out.f32(rows.tiling.first(t)) + channel, out.stride,
                into == Into::kAdd || input >= layout.sum_length,
                sums + place * kTileRows * layout.channels});
      }
    }
  }
}

void MatmulPanels::run(Tensor x, const Matrix& matrix, Tensor out, Into into) {
  if (x.rows == 0) return;
  const auto& w = static_cast<const PanelMatrix&>(matrix);
  const Layout& layout = w.layout();
  const int64_t padded = round_up(x.cols, kPaddedInputs);
  Rows rows{.tiling = Tiling(x.rows),
            .words_per_row = padded / layout.word_inputs,
            .starts_per_row = divided_up(padded, layout.start_length),
            .words = nullptr,
            .starts = nullptr,
            .scales = nullptr};
  rows.words = grown(words_, x.rows * rows.words_per_row);
  rows.starts = grown(starts_, x.rows * rows.starts_per_row);
  rows.scales = reinterpret_cast<float*>(grown(scales_, x.rows));
  const int64_t row_runs = divided_up(x.rows, kTaskRows);
  pool_.run(row_runs, [&](int64_t task, int32_t) {
    const int64_t end = std::min(x.rows, (task + 1) * kTaskRows);
    for (int64_t row = task * kTaskRows; row < end; ++row) prepare_row(w, x, row, rows);
  });
  // With a single tile, the only concern is that each task reads a long contiguous run of memory.
  const bool many = rows.tiling.tiles >= kTaskTiles;
  const int64_t task_panels =
      many ? kTaskPanels : std::max<int64_t>(kTaskBytes / w.panel_bytes(), 1);
  const int64_t panel_runs = divided_up(w.panels(), task_panels);
  const int64_t tile_runs = divided_up(rows.tiling.tiles, kTaskTiles);
  const int64_t room = task_panels * kTaskTiles * kTileRows * layout.channels;
  for (HostBuffer& sums : sums_) grown(sums, room);
  pool_.run(panel_runs * tile_runs, [&](int64_t task, int32_t worker) {
    const int64_t panel = task / tile_runs * task_panels, tile = task % tile_runs * kTaskTiles;
    const Part part{panel, std::min(panel + task_panels, w.panels()), tile,
                    std::min(tile + kTaskTiles, rows.tiling.tiles)};
    int32_t* sums = sums_[static_cast<size_t>(worker)].view().row<int32_t>(0);
    multiply(w, rows, part, sums, out, into);
  });
}

}  // namespace kascade::cpu
