// The element types of GGUF tensors that the converter reads. Quantised types consist of blocks of
// consecutive elements of a row.
#ifndef KASCADE_TOOLS_CONVERT_GGUF_DEQUANTIZE_H_
#define KASCADE_TOOLS_CONVERT_GGUF_DEQUANTIZE_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "engine/backend/tensor.h"

namespace kascade::convert {

constexpr int64_t kMaxBlockElements = 256;

struct GgmlType {
  uint32_t id;  // the number of the type in the file
  std::string_view name;
  int64_t block_elements;
  int64_t block_bytes;
  DType dtype;  // the dtype after dequantization
  // Writes block_elements values. Null for a type whose elements are already stored as `dtype`.
  void (*dequantize)(const std::byte* block, float* values);
};

// Returns null for a type that the converter does not read.
const GgmlType* find_ggml_type(uint32_t id);

// Returns the name of a type, such as "IQ4_XS", or "type 77" for an unknown one.
std::string ggml_type_name(uint32_t id);

// Converts `count` elements (a multiple of the type's block) to `type.dtype` and writes them to
// `target`. Neither pointer needs to be aligned.
void dequantize(const GgmlType& type, const std::byte* blocks, int64_t count, std::byte* target);

}  // namespace kascade::convert

#endif  // KASCADE_TOOLS_CONVERT_GGUF_DEQUANTIZE_H_
