#include "engine/backend/cpu/matmul_native.h"

#include <utility>
#include <vector>

#include "engine/backend/cpu/panel_kernels.h"
#include "engine/backend/cpu/panel_layout.h"

namespace kascade::cpu {

// Pieces one below the other, each of one format.
class MatmulNative::NativeMatrix final : public Matrix {
 public:
  struct Piece {
    std::unique_ptr<Matrix> matrix;
    bool f32;  // whether MatmulOneDnn packed it
  };
  explicit NativeMatrix(std::vector<Piece> pieces)
      : Matrix(total(pieces, &Matrix::out_features), pieces.front().matrix->in_features(),
               total(pieces, &Matrix::bytes)),
        pieces_(std::move(pieces)) {}
  const std::vector<Piece>& pieces() const { return pieces_; }

 private:
  static int64_t total(const std::vector<Piece>& pieces, int64_t (Matrix::*value)() const) {
    int64_t sum = 0;
    for (const Piece& piece : pieces) sum += ((*piece.matrix).*value)();
    return sum;
  }

  std::vector<Piece> pieces_;
};

// Neighbouring parts of one dtype make up a piece.
std::unique_ptr<Matrix> MatmulNative::pack(std::span<const Tensor> parts) {
  std::vector<NativeMatrix::Piece> pieces;
  while (!parts.empty()) {
    const DType dtype = parts.front().dtype;
    size_t count = 1;
    while (count < parts.size() && parts[count].dtype == dtype) ++count;
    const std::span<const Tensor> same = parts.first(count);
    if (kascade::has_blocks(dtype)) {
      pieces.push_back({panels_.pack(same, panel_format_of(dtype)), false});
    } else if (dtype == DType::kBF16 && pick_bf16_kernels() != nullptr) {
      pieces.push_back({panels_.pack(same, PanelFormat::kBF16), false});
    } else {
      pieces.push_back({f32_.pack(same), true});
    }
    parts = parts.subspan(count);
  }
  return std::make_unique<NativeMatrix>(std::move(pieces));
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
