#include "engine/backend/cpu/matmul_native.h"

#include <utility>
#include <vector>

#include "engine/backend/cpu/panel_kernels.h"
#include "engine/backend/cpu/panel_layout.h"
#include "engine/backend/host/host_buffer.h"
#include "engine/base/check.h"

namespace kascade::cpu {
namespace {

// Neighbouring parts of one dtype, which make up a piece of the matrix.
struct PieceParts {
  std::span<const Tensor> parts{};
  std::optional<PanelFormat> format{};  // unset: multiplied in f32
};

std::optional<PanelFormat> panel_format_for(DType dtype) {
  if (kascade::has_blocks(dtype)) return panel_format_of(dtype);
  if (dtype == DType::kBF16 && pick_bf16_kernels() != nullptr) return PanelFormat::kBF16;
  return std::nullopt;
}

std::vector<PieceParts> pieces_of(std::span<const Tensor> parts) {
  std::vector<PieceParts> pieces;
  while (!parts.empty()) {
    const DType dtype = parts.front().dtype;
    size_t count = 1;
    while (count < parts.size() && parts[count].dtype == dtype) ++count;
    pieces.push_back({parts.first(count), panel_format_for(dtype)});
    parts = parts.subspan(count);
  }
  return pieces;
}

// Bytes of the piece in the memory of the matrix.
size_t packed_bytes(const PieceParts& piece) {
  if (!piece.format) return 0;
  return static_cast<size_t>(MatmulPanels::packed_form(piece.parts, *piece.format).bytes);
}

}  // namespace

// Pieces one below the other, each of one format. Those in panels lie one behind the other in
// memory, and those in f32 have memory of their own.
class MatmulNative::NativeMatrix final : public Matrix {
 public:
  struct Piece {
    std::unique_ptr<Matrix> matrix{};
    bool f32 = false;  // whether MatmulOneDnn packed it
  };
  // `packed` holds all pieces or is empty. It lies in `memory`, or in memory of the caller.
  NativeMatrix(std::vector<Piece> pieces, HostBuffer memory, std::span<const std::byte> packed)
      : Matrix(total(pieces, &Matrix::out_features), pieces.front().matrix->in_features(),
               total(pieces, &Matrix::bytes)),
        memory_(std::move(memory)),
        pieces_(std::move(pieces)),
        packed_(packed) {}
  const std::vector<Piece>& pieces() const { return pieces_; }
  std::span<const std::byte> packed() const override { return packed_; }

 private:
  static int64_t total(const std::vector<Piece>& pieces, int64_t (Matrix::*value)() const) {
    int64_t sum = 0;
    for (const Piece& piece : pieces) sum += ((*piece.matrix).*value)();
    return sum;
  }

  HostBuffer memory_;
  std::vector<Piece> pieces_;
  std::span<const std::byte> packed_;
};

std::unique_ptr<Matrix> MatmulNative::pack(std::span<const Tensor> parts) {
  const std::vector<PieceParts> pieces = pieces_of(parts);
  size_t bytes = 0;
  for (const PieceParts& piece : pieces) bytes += packed_bytes(piece);
  HostBuffer memory(DType::kF32, 1, static_cast<int64_t>(bytes) / size_of(DType::kF32));
  KASCADE_CHECK(memory.view().data != nullptr);
  const std::span<std::byte> all(memory.view().row<std::byte>(0), bytes);
  std::span<std::byte> left = all;
  std::vector<NativeMatrix::Piece> packed;
  for (const PieceParts& piece : pieces) {
    if (!piece.format) {
      packed.push_back({f32_.pack(piece.parts), true});
      continue;
    }
    const size_t size = packed_bytes(piece);
    packed.push_back({panels_.pack(piece.parts, *piece.format, left.first(size)), false});
    left = left.subspan(size);
  }
  const bool keepable = packed_form(parts).has_value();
  return std::make_unique<NativeMatrix>(std::move(packed), std::move(memory),
                                        keepable ? all : std::span<std::byte>());
}

std::optional<PackedForm> MatmulNative::packed_form(std::span<const Tensor> parts) {
  PackedForm form;
  for (const PieceParts& piece : pieces_of(parts)) {
    if (!piece.format) return std::nullopt;
    const PackedForm next = MatmulPanels::packed_form(piece.parts, *piece.format);
    form.name += (form.name.empty() ? "" : "+") + next.name;
    form.bytes += next.bytes;
  }
  return form;
}

std::unique_ptr<Matrix> MatmulNative::adopt(std::span<const std::byte> packed,
                                            std::span<const Tensor> parts) {
  const auto form = packed_form(parts);
  if (!form) return nullptr;
  KASCADE_CHECK(static_cast<int64_t>(packed.size()) == form->bytes);
  std::vector<NativeMatrix::Piece> pieces;
  std::span<const std::byte> left = packed;
  for (const PieceParts& piece : pieces_of(parts)) {
    if (!piece.format) return nullptr;
    const size_t size = packed_bytes(piece);
    pieces.push_back({MatmulPanels::adopt(left.first(size), piece.parts, *piece.format), false});
    left = left.subspan(size);
  }
  return std::make_unique<NativeMatrix>(std::move(pieces), HostBuffer(), packed);
}

void MatmulNative::run(Tensor x, const Matrix& w, Tensor out, Into into) {
  int64_t first = 0;
  for (const NativeMatrix::Piece& piece : static_cast<const NativeMatrix&>(w).pieces()) {
    const int64_t channels = piece.matrix->out_features();
    const Tensor part = out.slice_cols(first, channels);
    piece.f32 ? f32_.run(x, *piece.matrix, part, into) : panels_.run(x, *piece.matrix, part, into);
    first += channels;
  }
}

}  // namespace kascade::cpu
