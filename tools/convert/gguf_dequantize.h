// The element types of GGUF tensors that we read. Quantised ones come in blocks of consecutive
// elements of a row.
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
  uint32_t id;  // in the file
  std::string_view name;
  int64_t block_elements;
  int64_t block_bytes;
  DType dtype;  // of the result
  // Writes block_elements values. Null for a type that is stored as `dtype` already.
  void (*dequantize)(const std::byte* block, float* values);
};

// Null for a type that we do not read.
const GgmlType* find_ggml_type(uint32_t id);

// "IQ4_XS"; "type 77" for one that we have not heard of.
std::string ggml_type_name(uint32_t id);

// `count` elements, a multiple of the type's block, into `target` as `type.dtype`; neither needs to
// be aligned.
void dequantize(const GgmlType& type, const std::byte* blocks, int64_t count, std::byte* target);

}  // namespace kascade::convert

#endif  // KASCADE_TOOLS_CONVERT_GGUF_DEQUANTIZE_H_
