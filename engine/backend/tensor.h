// A non-owning strided view of a matrix (Tensor) and the owner of a backend's memory (Buffer).
#ifndef KASCADE_ENGINE_BACKEND_TENSOR_H_
#define KASCADE_ENGINE_BACKEND_TENSOR_H_

#include <bit>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string_view>
#include <utility>

namespace kascade {

// A row of kInt8 is `cols` one-byte levels, followed by the f32 scale by which they are multiplied,
// which need not be aligned. From kQ8_0 on, a row consists of blocks of quantised weights as GGUF
// files hold them (engine/backend/block_formats.h); only weight matrices have these dtypes.
enum class DType : uint8_t {
  kF32,
  kBF16,
  kF16,
  kI32,
  kInt8,
  kQ8_0,
  kQ4_0,
  kQ4_1,
  kQ5_0,
  kQ5_1,
  kQ4_K,
  kQ5_K,
  kQ6_K,
};

// Inputs and bytes of a block; both are 1 if the dtype has no blocks.
struct BlockSize {
  int64_t inputs = 1;
  int64_t bytes = 1;
};
constexpr BlockSize block_size_of(DType dtype) {
  constexpr BlockSize kSizes[] = {{32, 34}, {32, 18},   {32, 20},   {32, 22},
                                  {32, 24}, {256, 144}, {256, 176}, {256, 210}};
  if (dtype < DType::kQ8_0) return {};
  return kSizes[static_cast<int>(dtype) - static_cast<int>(DType::kQ8_0)];
}
constexpr bool has_blocks(DType dtype) { return dtype >= DType::kQ8_0; }
constexpr int32_t kBlockDTypes = 8;

// Bytes of an element. The elements of a dtype with blocks are the bytes of its blocks.
constexpr int64_t size_of(DType dtype) {
  if (dtype == DType::kInt8 || has_blocks(dtype)) return 1;
  return dtype == DType::kF32 || dtype == DType::kI32 ? 4 : 2;
}
// Elements from one row to the next if rows lie without gaps. With blocks, `cols` is a multiple of
// the inputs of a block.
constexpr int64_t row_elements(DType dtype, int64_t cols) {
  const BlockSize block = block_size_of(dtype);
  return dtype == DType::kInt8 ? cols + 4 : cols / block.inputs * block.bytes;
}

constexpr std::string_view name_of(DType dtype) {
  constexpr std::string_view kNames[] = {"f32",  "bf16", "f16",  "i32",  "int8", "Q8_0", "Q4_0",
                                         "Q4_1", "Q5_0", "Q5_1", "Q4_K", "Q5_K", "Q6_K"};
  return kNames[static_cast<size_t>(dtype)];
}

// The format in which weights are stored and multiplied. engine/backend/quantization.h defines int8
// and int4. kNative keeps every matrix in the format of the checkpoint, which may differ from
// matrix to matrix; blocks are multiplied as engine/backend/block_formats.h says.
enum class WeightFormat { kAuto, kF32, kBF16, kInt8, kInt4, kNative };

constexpr std::string_view name_of(WeightFormat format) {
  constexpr std::string_view kNames[] = {"auto", "f32", "bf16", "int8", "int4", "native"};
  return kNames[static_cast<size_t>(format)];
}

// bf16 is stored as the upper 16 bits of an f32. Conversion rounds to nearest, ties to even; a NaN
// stays a NaN.
constexpr uint16_t to_bf16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40u);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}
constexpr float from_bf16(uint16_t value) {
  return std::bit_cast<float>(static_cast<uint32_t>(value) << 16);
}
// Exact; a NaN becomes a quiet NaN with the same leading bits. Without instructions for f16, which
// not every processor has, the compiler would call a function for each number. No step has a
// subnormal f32, which a thread may have been told to treat as 0.
constexpr float from_f16(uint16_t value) {
  const uint32_t sign = (value & 0x8000u) << 16;
  const uint32_t magnitude = value & 0x7fffu;
  const float subnormal = static_cast<float>(static_cast<int32_t>(magnitude)) * 0x1p-24f;
  const uint32_t normal = (magnitude << 13) + (112u << 23);
  const uint32_t infinite = (magnitude << 13) | 0x7f800000u | (magnitude > 0x7c00u ? 1u << 22 : 0);
  const uint32_t bits = magnitude < 0x400u    ? std::bit_cast<uint32_t>(subnormal)
                        : magnitude < 0x7c00u ? normal
                                              : infinite;
  return std::bit_cast<float>(bits | sign);
}

// A view of [rows, cols] values; `stride` elements lie between the starts of two rows. A vector
// is one row. Copying a Tensor copies the view, never the elements. The elements lie in the memory
// of one backend, and only that backend may read or write them. Where a function says so, they lie
// in host memory instead (the weights of a checkpoint file).
struct Tensor {
  void* data = nullptr;
  DType dtype = DType::kF32;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t stride = 0;

  template <typename T>
  T* row(int64_t index) const {
    return static_cast<T*>(data) + index * stride;
  }
  float* f32(int64_t index) const { return row<float>(index); }
  uint16_t* bf16(int64_t index) const { return row<uint16_t>(index); }

  Tensor slice_rows(int64_t begin, int64_t count) const {
    return {static_cast<std::byte*>(data) + begin * stride * size_of(dtype), dtype, count, cols,
            stride};
  }
  Tensor slice_cols(int64_t begin, int64_t count) const {
    return {static_cast<std::byte*>(data) + begin * size_of(dtype), dtype, rows, count, stride};
  }
};

// Memory of a backend (Backend::allocate), freed with the last copy of the handle. Its holder
// passes views of it to operations of that backend and never dereferences it.
class Buffer {
 public:
  Buffer() = default;
  Buffer(Tensor view, std::shared_ptr<void> memory) : view_(view), memory_(std::move(memory)) {}

  Tensor view() const { return view_; }
  Tensor first_rows(int64_t count) const { return view_.slice_rows(0, count); }
  bool allocated() const { return view_.data != nullptr; }  // false: out of memory

 private:
  Tensor view_{};
  std::shared_ptr<void> memory_{};
};

}  // namespace kascade

#endif  // KASCADE_ENGINE_BACKEND_TENSOR_H_
