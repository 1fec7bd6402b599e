#include "tools/convert/value_cast.h"

#include <bit>
#include <cmath>
#include <cstring>

#include "engine/backend/block_formats.h"
#include "engine/base/check.h"

namespace kascade::convert {
namespace {

template <typename T>
T load(std::span<const std::byte> values, int64_t index) {
  T value;
  std::memcpy(&value, values.data() + index * static_cast<int64_t>(sizeof(T)), sizeof(T));
  return value;
}

template <typename T>
void store(std::span<std::byte> values, int64_t index, T value) {
  std::memcpy(values.data() + index * static_cast<int64_t>(sizeof(T)), &value, sizeof(T));
}

void store_value(std::span<std::byte> values, DType dtype, int64_t index, float value) {
  switch (dtype) {
    case DType::kF32:
      return store(values, index, value);
    case DType::kBF16:
      return store(values, index, to_bf16(value));
    default:
      return store(values, index, static_cast<_Float16>(value));
  }
}

int64_t count(std::span<const std::byte> values, DType dtype) {
  return static_cast<int64_t>(values.size()) / size_of(dtype);
}

}  // namespace

float value_at(std::span<const std::byte> values, DType dtype, int64_t index) {
  switch (dtype) {
    case DType::kF32:
      return load<float>(values, index);
    case DType::kBF16:
      return from_bf16(load<uint16_t>(values, index));
    default:
      KASCADE_CHECK(dtype == DType::kF16);
      return from_f16(load<uint16_t>(values, index));
  }
}

std::vector<std::byte> dequantized(std::span<const std::byte> blocks, DType dtype) {
  const BlockSize block = block_size_of(dtype);
  const auto count = static_cast<int64_t>(blocks.size()) / block.bytes * block.inputs;
  std::vector<std::byte> values(static_cast<size_t>(count) * sizeof(float));
  dequantize_row(dtype, blocks.data(), count, reinterpret_cast<float*>(values.data()));
  return values;
}

std::optional<int64_t> first_not_finite(std::span<const std::byte> values, DType dtype) {
  for (int64_t i = 0; i < count(values, dtype); ++i) {
    if (!std::isfinite(value_at(values, dtype, i))) return i;
  }
  return std::nullopt;
}

void cast_values(std::span<const std::byte> from, DType from_type, std::span<std::byte> to,
                 DType to_type) {
  KASCADE_CHECK(count(from, from_type) == count(to, to_type));
  for (int64_t i = 0; i < count(from, from_type); ++i) {
    store_value(to, to_type, i, value_at(from, from_type, i));
  }
}

}  // namespace kascade::convert
