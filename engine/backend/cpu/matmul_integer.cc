#include "engine/backend/cpu/matmul_integer.h"

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "engine/backend/quantization.h"
#include "engine/check.h"

namespace kascade::cpu {
namespace {

// What a thread takes at a time: at least so many bytes of weights, at most so many tiles of rows.
// Small enough to share out evenly when other processes use a core, large enough that memory is
// read in long runs.
constexpr int64_t kTaskBytes = int64_t{64} << 10;
constexpr int64_t kTaskTiles = 8;

constexpr int64_t round_up(int64_t value, int64_t to) { return (value + to - 1) / to * to; }
constexpr int64_t divided_up(int64_t value, int64_t by) { return (value + by - 1) / by; }

// How a format lies in memory.
struct Layout {
  int64_t channels;      // per panel
  int64_t block_inputs;  // what inputs are padded to
  int64_t block_bytes;
  int64_t sum_length;    // inputs whose products are summed as integers
  int64_t start_length;  // inputs per entry of IntegerTile::starts
  int32_t offset;
};

Layout layout_of(WeightFormat format) {
  if (format == WeightFormat::kInt8) {
    return {kInt8Channels, kInt8Step, kInt8StepBytes, kInt8SumLength, kInt8SumLength, kInt8Offset};
  }
  return {kInt4Channels,  kInt4BlockInputs, kInt4BlockBytes,
          kInt4SumLength, kInt4Group,       kInt4Offset};
}

class IntegerMatrix final : public Matrix {
 public:
  IntegerMatrix(WeightFormat format, int64_t out_features, int64_t in_features)
      : IntegerMatrix(format, layout_of(format), out_features, in_features) {}

  WeightFormat format() const { return format_; }
  const Layout& layout() const { return layout_; }
  int64_t panels() const { return panels_; }
  int64_t panel_bytes() const { return panel_bytes_; }
  uint8_t* panel(int64_t index) const {
    return storage_.view().row<uint8_t>(0) + index * panel_bytes_;
  }
  float* scales(int64_t index) const { return scales_.view().f32(0) + index * layout_.channels; }

 private:
  IntegerMatrix(WeightFormat format, const Layout& layout, int64_t out_features,
                int64_t in_features)
      : IntegerMatrix(format, layout, out_features, in_features,
                      divided_up(out_features, layout.channels),
                      divided_up(in_features, layout.block_inputs) * layout.block_bytes) {}
  IntegerMatrix(WeightFormat format, const Layout& layout, int64_t out_features,
                int64_t in_features, int64_t panels, int64_t panel_bytes)
      : Matrix(out_features, in_features,
               panels * (panel_bytes + layout.channels * size_of(DType::kF32))),
        format_(format),
        layout_(layout),
        panels_(panels),
        panel_bytes_(panel_bytes),
        storage_(DType::kF32, panels, panel_bytes / size_of(DType::kF32)),
        scales_(DType::kF32, panels, layout.channels) {
    KASCADE_CHECK(storage_.view().data != nullptr && scales_.view().data != nullptr);
  }

  WeightFormat format_;
  Layout layout_;
  int64_t panels_;
  int64_t panel_bytes_;
  Buffer storage_;
  Buffer scales_;  // [panels, channels]
};

void read_row(Tensor from, int64_t row, float* to) {
  for (int64_t i = 0; i < from.cols; ++i) {
    if (from.dtype == DType::kF32) to[i] = from.f32(row)[i];
    if (from.dtype == DType::kBF16) to[i] = from_bf16(from.bf16(row)[i]);
    if (from.dtype == DType::kF16) to[i] = from_f16(from.row<uint16_t>(row)[i]);
  }
}

// Row `index` of the parts one after another.
void read_channel(std::span<const Tensor> parts, int64_t index, float* to) {
  for (const Tensor& part : parts) {
    if (index < part.rows) return read_row(part, index, to);
    index -= part.rows;
  }
}

// One channel's levels into its place in the panel; what lies between stays as it is.
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

// Rows of x in tiles of equal height, or one less.
struct Tiling {
  explicit Tiling(int64_t row_count)
      : rows(row_count), tiles(divided_up(row_count, int64_t{kTileRows})) {}
  int64_t first(int64_t tile) const { return rows * tile / tiles; }
  int64_t tile_of(int64_t row) const { return ((row + 1) * tiles - 1) / rows; }
  int64_t rows;
  int64_t tiles;
};

// The quantised rows of a product: tile after tile, see IntegerTile.
struct Rows {
  Tiling tiling;
  int64_t padded;  // inputs
  int64_t sums;    // entries of `starts` per row
  int32_t* levels;
  int32_t* starts;
  float* scales;

  IntegerTile tile(int64_t index, int64_t first_input, int64_t start_length) const {
    const int64_t first = tiling.first(index);
    const auto height = static_cast<int32_t>(tiling.first(index + 1) - first);
    return {levels + first * (padded / 4) + first_input / 4 * height,
            starts + first * sums + first_input / start_length * height, scales + first, height};
  }
};

int32_t* grown(Buffer& buffer, int64_t count) {
  if (buffer.bytes() < count * size_of(DType::kI32)) buffer = Buffer(DType::kI32, 1, count);
  KASCADE_CHECK(buffer.view().data != nullptr);
  return buffer.view().row<int32_t>(0);
}

// One panel by one tile.
void multiply(const IntegerKernels& kernels, const IntegerMatrix& w, int64_t panel,
              const Rows& rows, int64_t tile, Tensor out, Into into) {
  const Layout& layout = w.layout();
  const int64_t first_channel = panel * layout.channels;
  const int64_t padded = round_up(w.in_features(), layout.block_inputs);
  IntegerOut to{out.f32(rows.tiling.first(tile)) + first_channel, out.stride, into == Into::kAdd};
  for (int64_t input = 0; input < padded; input += layout.sum_length) {
    const int64_t inputs = std::min(layout.sum_length, padded - input);
    const IntegerPanel part{
        w.panel(panel) + input / layout.block_inputs * layout.block_bytes, w.scales(panel),
        inputs / layout.block_inputs,
        static_cast<int32_t>(std::min(layout.channels, w.out_features() - first_channel))};
    const IntegerTile levels = rows.tile(tile, input, layout.start_length);
    (w.format() == WeightFormat::kInt8 ? kernels.int8 : kernels.int4)(levels, part, to);
    to.add = true;
  }
}

}  // namespace

std::unique_ptr<Matrix> MatmulInteger::pack(std::span<const Tensor> parts,
                                            WeightFormat format) const {
  int64_t out_features = 0;
  for (const Tensor& part : parts) out_features += part.rows;
  const int64_t in_features = parts.front().cols;
  auto matrix = std::make_unique<IntegerMatrix>(format, out_features, in_features);
  const int64_t channels = matrix->layout().channels;
#pragma omp parallel for num_threads(threads_) schedule(dynamic, 1)
  for (int64_t panel = 0; panel < matrix->panels(); ++panel) {
    std::memset(matrix->panel(panel), 0, static_cast<size_t>(matrix->panel_bytes()));
    std::fill_n(matrix->scales(panel), channels, 0.0f);
    std::vector<float> values(static_cast<size_t>(in_features));
    std::vector<int8_t> levels(static_cast<size_t>(round_up(in_features, kInt4Group)));
    std::vector<int8_t> multiples(levels.size() / kInt4Group);
    const int64_t end = std::min((panel + 1) * channels, out_features);
    for (int64_t channel = panel * channels; channel < end; ++channel) {
      const int64_t place = channel - panel * channels;
      float& scale = matrix->scales(panel)[place];
      read_channel(parts, channel, values.data());
      if (format == WeightFormat::kInt8) {
        scale = quantize_int8(values.data(), in_features, levels.data());
        put_int8(levels.data(), in_features, place, matrix->panel(panel));
      } else {
        scale = quantize_int4(values.data(), in_features, levels.data(), multiples.data());
        put_int4(levels, multiples, place, matrix->panel(panel));
      }
    }
  }
  return matrix;
}

void MatmulInteger::run(Tensor x, const Matrix& matrix, Tensor out, Into into) {
  if (x.rows == 0) return;
  const auto& w = static_cast<const IntegerMatrix&>(matrix);
  const Layout& layout = w.layout();
  const int64_t padded = round_up(x.cols, kInt4BlockInputs);
  Rows rows{.tiling = Tiling(x.rows),
            .padded = padded,
            .sums = divided_up(padded, layout.start_length),
            .levels = nullptr,
            .starts = nullptr,
            .scales = nullptr};
  rows.levels = grown(levels_, x.rows * padded / 4);
  rows.starts = grown(starts_, x.rows * rows.sums);
  rows.scales = reinterpret_cast<float*>(grown(scales_, x.rows));
  const int64_t task_panels = std::max<int64_t>(kTaskBytes / w.panel_bytes(), 1);
  const int64_t panel_runs = divided_up(w.panels(), task_panels);
  const int64_t tile_runs = divided_up(rows.tiling.tiles, kTaskTiles);
#pragma omp parallel num_threads(threads_)
  {
#pragma omp for schedule(static)
    for (int64_t row = 0; row < x.rows; ++row) {
      const int64_t tile = rows.tiling.tile_of(row);
      const IntegerTile to = rows.tile(tile, 0, layout.start_length);
      const int64_t place = row - rows.tiling.first(tile);
      rows.scales[row] = kernels_.quantize(
          x.f32(row), x.cols,
          {const_cast<int32_t*>(to.levels) + place, const_cast<int32_t*>(to.starts) + place,
           to.rows, padded, layout.start_length, layout.offset});
    }
#pragma omp for schedule(dynamic, 1)
    for (int64_t task = 0; task < panel_runs * tile_runs; ++task) {
      const int64_t first_panel = task / tile_runs * task_panels;
      const int64_t last_panel = std::min(first_panel + task_panels, w.panels());
      const int64_t first_tile = task % tile_runs * kTaskTiles;
      const int64_t last_tile = std::min(first_tile + kTaskTiles, rows.tiling.tiles);
      for (int64_t panel = first_panel; panel < last_panel; ++panel) {
        for (int64_t tile = first_tile; tile < last_tile; ++tile) {
          multiply(kernels_, w, panel, rows, tile, out, into);
        }
      }
    }
  }
}

}  // namespace kascade::cpu
