// The element types of GGUF tensors that the converter reads.
#ifndef KASCADE_TOOLS_CONVERT_GGUF_TYPES_H_
#define KASCADE_TOOLS_CONVERT_GGUF_TYPES_H_

#include <cstdint>
#include <string>
#include <string_view>

#include "engine/backend/tensor.h"

namespace kascade::convert {

struct GgmlType {
  uint32_t id;  // the number of the type in the file
  std::string_view name;
  DType dtype;  // how the file stores rows of this type

  // Elements and bytes of the smallest unit of a row.
  constexpr int64_t block_elements() const { return block_size_of(dtype).inputs; }
  constexpr int64_t block_bytes() const {
    return has_blocks(dtype) ? block_size_of(dtype).bytes : size_of(dtype);
  }
};

// Returns null for a type that the converter does not read.
const GgmlType* find_ggml_type(uint32_t id);

// Returns the name of a type, such as "IQ4_XS", or "type 77" for an unknown one.
std::string ggml_type_name(uint32_t id);

}  // namespace kascade::convert

#endif  // KASCADE_TOOLS_CONVERT_GGUF_TYPES_H_
