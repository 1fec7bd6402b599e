#include "engine/backend/cpu/matmul_panels.h"

#include <algorithm>
#include <cstring>
#include <string_view>
#include <utility>
#include <vector>

#include "engine/backend/cpu/channels.h"
#include "engine/backend/cpu/panel_layout.h"
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
// With a single tile, so many inputs of an int4 panel are unpacked at a time: 16 KiB, which stay in
// the first cache.
constexpr int64_t kUnpackedInputs = 512;
// The size, in words, of the part of an int8 panel that int4 weights are unpacked to.
constexpr int64_t kInt8RoomWords = kCachedInputs / kInt8Step * kInt8StepBytes / 4;
// Rows of x that one task quantises or rounds.
constexpr int64_t kTaskRows = 16;
// The inputs of x are padded to a multiple of this, which suits the blocks of every format.
constexpr int64_t kPaddedInputs = 64;

constexpr int64_t round_up(int64_t value, int64_t to) { return (value + to - 1) / to * to; }
constexpr int64_t divided_up(int64_t value, int64_t by) { return (value + by - 1) / by; }

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

// All panels one after another, followed by the scales of all channels if the format has such
// scales, including the padding channels of the last panel; then zeros up to a multiple of 64
// bytes.
class MatmulPanels::PanelMatrix final : public Matrix {
 public:
  struct Size {
    Size(const PanelLayout& layout, int64_t out_features, int64_t in_features)
        : panels(divided_up(out_features, layout.channels)),
          panel_bytes(divided_up(in_features, layout.block_inputs) * layout.block_bytes),
          bytes(panels * (panel_bytes +
                          (layout.channel_scales ? layout.channels * size_of(DType::kF32) : 0))),
          packed_bytes(round_up(bytes, 64)) {}
    int64_t panels;
    int64_t panel_bytes;
    int64_t bytes;
    int64_t packed_bytes;
  };

  // Makes a matrix to fill, in `memory` or, if that is empty, in memory of its own.
  PanelMatrix(PanelFormat format, int64_t out_features, int64_t in_features,
              std::span<std::byte> memory)
      : PanelMatrix(format, out_features, in_features,
                    Size(panel_layout_of(format), out_features, in_features)) {
    const auto wanted = static_cast<size_t>(size_.packed_bytes);
    if (memory.empty()) {
      storage_ = HostBuffer(DType::kF32, 1, size_.packed_bytes / size_of(DType::kF32));
      memory = {storage_.view().row<std::byte>(0), wanted};
    }
    KASCADE_CHECK(memory.data() != nullptr && memory.size() == wanted);
    data_ = to_fill_ = reinterpret_cast<uint8_t*>(memory.data());
    std::memset(to_fill_ + size_.bytes, 0, wanted - static_cast<size_t>(size_.bytes));
  }
  PanelMatrix(PanelFormat format, int64_t out_features, int64_t in_features,
              std::span<const std::byte> packed)
      : PanelMatrix(format, out_features, in_features,
                    Size(panel_layout_of(format), out_features, in_features)) {
    KASCADE_CHECK(static_cast<int64_t>(packed.size()) == size_.packed_bytes);
    data_ = reinterpret_cast<const uint8_t*>(packed.data());
  }

  PanelFormat format() const { return format_; }
  const PanelLayout& layout() const { return layout_; }
  int64_t panels() const { return size_.panels; }
  int64_t panel_bytes() const { return size_.panel_bytes; }
  const uint8_t* panel(int64_t index) const { return data_ + index * size_.panel_bytes; }
  const float* scales(int64_t index) const {
    return reinterpret_cast<const float*>(panel(size_.panels)) + index * layout_.channels;
  }
  std::span<const std::byte> packed() const override {
    return {reinterpret_cast<const std::byte*>(data_), static_cast<size_t>(size_.packed_bytes)};
  }

  // Only for a matrix that was made to be filled.
  uint8_t* panel_to_fill(int64_t index) const { return to_fill_ + index * size_.panel_bytes; }
  float* scales_to_fill(int64_t index) const {
    return reinterpret_cast<float*>(panel_to_fill(size_.panels)) + index * layout_.channels;
  }

 private:
  PanelMatrix(PanelFormat format, int64_t out_features, int64_t in_features, const Size& size)
      : Matrix(out_features, in_features, size.bytes),
        format_(format),
        layout_(panel_layout_of(format)),
        size_(size) {}

  PanelFormat format_;
  PanelLayout layout_;
  Size size_;
  HostBuffer storage_{};
  uint8_t* to_fill_ = nullptr;
  const uint8_t* data_ = nullptr;  // in storage_, or in memory of the caller
};

PackedForm MatmulPanels::packed_form(std::span<const Tensor> parts, PanelFormat format) {
  const PanelMatrix::Size size(panel_layout_of(format), rows_of_all(parts), parts.front().cols);
  return {form_name(format), size.packed_bytes};
}

std::unique_ptr<Matrix> MatmulPanels::adopt(std::span<const std::byte> packed,
                                            std::span<const Tensor> parts, PanelFormat format) {
  return std::make_unique<PanelMatrix>(format, rows_of_all(parts), parts.front().cols, packed);
}

// The rows of a product in the form that the kernels read, tile after tile (PanelTile).
struct MatmulPanels::Rows {
  Tiling tiling;
  // The format of the panels that the rows are multiplied by: int8 where int4 weights are unpacked.
  PanelFormat format;
  PanelLayout layout;
  int64_t words_per_row;
  int64_t starts_per_row;
  int64_t scales_per_row;
  int32_t* words;
  int32_t* starts;
  float* scales;
  float* level_sums;  // as many as scales; blocks only

  PanelTile tile(int64_t index, int64_t first_input) const {
    const int64_t first = tiling.first(index);
    const auto height = static_cast<int32_t>(tiling.first(index + 1) - first);
    const int64_t scale = first * scales_per_row + first_input / layout.scale_length * height;
    return {words + first * words_per_row + first_input / layout.word_inputs * height,
            starts + first * starts_per_row + first_input / layout.start_length * height,
            scales + scale, level_sums + scale, height};
  }
};

// Packs the channels of one thread, one after another.
class MatmulPanels::ChannelPacker {
 public:
  ChannelPacker(std::span<const Tensor> parts, PanelMatrix& matrix, const IntegerKernels& kernels)
      : parts_(parts),
        matrix_(matrix),
        kernels_(kernels),
        values_(static_cast<size_t>(matrix.in_features())),
        rotated_(values_.size()),
        levels_(static_cast<size_t>(round_up(matrix.in_features(), kInt4Group))),
        multiples_(levels_.size() / kInt4Group) {}

  void pack_panel(int64_t panel) {
    const PanelLayout& layout = matrix_.layout();
    uint8_t* to = matrix_.panel_to_fill(panel);
    std::memset(to, 0, static_cast<size_t>(matrix_.panel_bytes()));
    float* scales = layout.channel_scales ? matrix_.scales_to_fill(panel) : nullptr;
    if (scales != nullptr) std::fill_n(scales, layout.channels, 0.0f);
    const int64_t first = panel * layout.channels;
    const int64_t count = std::min(layout.channels, matrix_.out_features() - first);
    for (int64_t place = 0; place < count; ++place) {
      if (has_blocks(matrix_.format())) {
        pack_blocks(first + place, place, to);
      } else {
        const float scale = pack_values(first + place, place, to);
        if (scales != nullptr) scales[place] = scale;
      }
    }
  }

 private:
  void pack_blocks(int64_t channel, int64_t place, uint8_t* to) {
    for (const Tensor& part : parts_) {
      if (channel < part.rows) {
        read_block_row(part.dtype, part.row<std::byte>(channel), part.cols, blocks_);
        return put_blocks(part.dtype, blocks_, place, to);
      }
      channel -= part.rows;
    }
  }

  // Returns the scale of the channel.
  float pack_values(int64_t channel, int64_t place, uint8_t* to) {
    const int64_t inputs = matrix_.in_features();
    read_channel(parts_, channel, values_.data());
    if (matrix_.format() == PanelFormat::kBF16) {
      put_bf16(values_.data(), inputs, place, to);
      return 1;
    }
    kernels_.rotate(values_.data(), inputs, rotated_.data());
    if (matrix_.format() == PanelFormat::kInt8) {
      const float scale = quantize_int8(rotated_.data(), inputs, levels_.data());
      put_int8(levels_.data(), inputs, place, to);
      return scale;
    }
    const float scale =
        kernels_.quantize_int4(rotated_.data(), inputs, levels_.data(), multiples_.data());
    put_int4(levels_, multiples_, place, to);
    return scale;
  }

  std::span<const Tensor> parts_;
  PanelMatrix& matrix_;
  const IntegerKernels& kernels_;
  std::vector<float> values_;
  std::vector<float> rotated_;
  std::vector<int8_t> levels_;
  std::vector<int8_t> multiples_;
  BlockRow blocks_{};
};

std::unique_ptr<Matrix> MatmulPanels::pack(std::span<const Tensor> parts, PanelFormat format,
                                           std::span<std::byte> memory) {
  const int64_t inputs = parts.front().cols;
  auto matrix = std::make_unique<PanelMatrix>(format, rows_of_all(parts), inputs, memory);
  std::vector<ChannelPacker> packers(static_cast<size_t>(pool_.threads()),
                                     ChannelPacker(parts, *matrix, integer_));
  pool_.run(matrix->panels(), [&](int64_t panel, int32_t worker) {
    packers[static_cast<size_t>(worker)].pack_panel(panel);
  });
  return matrix;
}

void MatmulPanels::prepare_row(const PanelMatrix& w, Tensor x, int64_t row, const Rows& rows,
                               float* rotated) const {
  const PanelLayout& layout = rows.layout;
  const int64_t tile = rows.tiling.tile_of(row);
  const PanelTile to = rows.tile(tile, 0);
  const int64_t place = row - rows.tiling.first(tile);
  int32_t* words = const_cast<int32_t*>(to.words) + place;
  if (w.format() == PanelFormat::kBF16) {
    return bf16_->to_pairs(x.f32(row), x.cols, to.rows, words);
  }
  const IntegerRow integers{words,
                            const_cast<int32_t*>(to.starts) + place,
                            to.rows,
                            rows.words_per_row * layout.word_inputs,
                            layout.start_length,
                            layout.offset};
  if (has_blocks(w.format())) {
    return integer_.quantize_groups(x.f32(row), x.cols,
                                    {integers, const_cast<float*>(to.scales) + place,
                                     const_cast<float*>(to.level_sums) + place});
  }
  integer_.rotate(x.f32(row), x.cols, rotated);
  rows.scales[row] = integer_.quantize(rotated, x.cols, integers);
}

// The inputs of a panel that are multiplied by all tiles before the next ones are.
int64_t inputs_at_a_time(int64_t tiles, int64_t sum_length, bool unpacks) {
  if (unpacks) return tiles == 1 ? kUnpackedInputs : kCachedInputs;
  return tiles == 1 ? sum_length : std::min(kCachedInputs, sum_length);
}

// The memory of a task.
struct MatmulPanels::Room {
  uint8_t* int8_panel;
  int32_t* sums;
};

// A task: a range of panels by a range of tiles.
struct MatmulPanels::Part {
  int64_t first_panel;
  int64_t last_panel;
  int64_t first_tile;
  int64_t last_tile;
};

PanelKernel MatmulPanels::kernel_of(PanelFormat format) const {
  switch (format) {
    case PanelFormat::kBF16:
      return bf16_->multiply;
    case PanelFormat::kInt8:
      return integer_.int8;
    case PanelFormat::kInt4:
      return integer_.int4;
    default:
      return integer_.blocks[static_cast<int>(format) - static_cast<int>(PanelFormat::kQ8_0)];
  }
}

// With several tiles, kCachedInputs inputs of each panel are multiplied by all tiles while they are
// in the core's cache; sums that are not complete are kept in the room.
void MatmulPanels::multiply(const PanelMatrix& w, const Rows& rows, const Part& part, Room room,
                            Tensor out, Into into) const {
  const PanelLayout& layout = w.layout();
  const PanelKernel kernel = kernel_of(rows.format);
  const bool unpacks = rows.format != w.format();
  const int64_t inputs = round_up(w.in_features(), layout.block_inputs);
  const int64_t tiles = part.last_tile - part.first_tile;
  const int64_t step = inputs_at_a_time(tiles, layout.sum_length, unpacks);
  for (int64_t input = 0; input < inputs; input += step) {
    const int64_t end = std::min(input + step, inputs);
    const bool begins = input % layout.sum_length == 0;
    const bool ends = end % layout.sum_length == 0 || end == inputs;
    for (int64_t p = part.first_panel; p < part.last_panel; ++p) {
      const int64_t channel = p * layout.channels;
      const uint8_t* weights = w.panel(p) + input / layout.block_inputs * layout.block_bytes;
      if (unpacks) {
        integer_.unpack_int4(weights, (end - input) / layout.block_inputs, room.int8_panel);
        weights = room.int8_panel;
      }
      const Panel panel{weights,
                        w.scales(p),
                        (end - input) / rows.layout.block_inputs,
                        static_cast<int32_t>(std::min(layout.channels, w.out_features() - channel)),
                        begins,
                        ends};
      for (int64_t t = part.first_tile; t < part.last_tile; ++t) {
        const int64_t place = (p - part.first_panel) * tiles + t - part.first_tile;
        kernel(rows.tile(t, input), panel,
               {out.f32(rows.tiling.first(t)) + channel, out.stride,
                into == Into::kAdd || input >= layout.sum_length,
                room.sums + place * kTileRows * layout.channels});
      }
    }
  }
}

MatmulPanels::Rows MatmulPanels::prepare_rows(const PanelMatrix& w, Tensor x) {
  const bool unpacks = w.format() == PanelFormat::kInt4 && x.rows > kInt4DirectRows;
  const PanelFormat format = unpacks ? PanelFormat::kInt8 : w.format();
  const PanelLayout layout = panel_layout_of(format);
  const int64_t padded = round_up(x.cols, kPaddedInputs);
  Rows rows{.tiling = Tiling(x.rows),
            .format = format,
            .layout = layout,
            .words_per_row = padded / layout.word_inputs,
            .starts_per_row = divided_up(padded, layout.start_length),
            .scales_per_row = divided_up(padded, layout.scale_length),
            .words = nullptr,
            .starts = nullptr,
            .scales = nullptr,
            .level_sums = nullptr};
  rows.words = grown(words_, x.rows * rows.words_per_row);
  rows.starts = grown(starts_, x.rows * rows.starts_per_row);
  const int64_t scales = x.rows * rows.scales_per_row;
  rows.scales = reinterpret_cast<float*>(grown(scales_, 2 * scales));
  rows.level_sums = rows.scales + scales;
  const int64_t row_runs = divided_up(x.rows, kTaskRows);
  for (HostBuffer& rotated : rotated_) grown(rotated, x.cols);
  pool_.run(row_runs, [&](int64_t task, int32_t worker) {
    float* rotated = rotated_[static_cast<size_t>(worker)].view().f32(0);
    const int64_t end = std::min(x.rows, (task + 1) * kTaskRows);
    for (int64_t row = task * kTaskRows; row < end; ++row) prepare_row(w, x, row, rows, rotated);
  });
  return rows;
}

void MatmulPanels::run(Tensor x, const Matrix& matrix, Tensor out, Into into) {
  if (x.rows == 0) return;
  const auto& w = static_cast<const PanelMatrix&>(matrix);
  const Rows rows = prepare_rows(w, x);
  // With a single tile, the only concern is that each task reads a long contiguous run of memory.
  const bool many = rows.tiling.tiles >= kTaskTiles;
  const int64_t task_panels = many ? kTaskPanels : divided_up(kTaskBytes, w.panel_bytes());
  const int64_t panel_runs = divided_up(w.panels(), task_panels);
  const int64_t tile_runs = divided_up(rows.tiling.tiles, kTaskTiles);
  const int64_t sums = task_panels * kTaskTiles * kTileRows * w.layout().channels;
  for (HostBuffer& room : rooms_) grown(room, sums + kInt8RoomWords);
  pool_.run(panel_runs * tile_runs, [&](int64_t task, int32_t worker) {
    const int64_t panel = task / tile_runs * task_panels, tile = task % tile_runs * kTaskTiles;
    const Part part{panel, std::min(panel + task_panels, w.panels()), tile,
                    std::min(tile + kTaskTiles, rows.tiling.tiles)};
    int32_t* room = rooms_[static_cast<size_t>(worker)].view().row<int32_t>(0);
    multiply(w, rows, part, {reinterpret_cast<uint8_t*>(room), room + kInt8RoomWords}, out, into);
  });
}

}  // namespace kascade::cpu
