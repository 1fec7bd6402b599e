// A safetensors file; every byte of every tensor that it hands out is read.
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>
#include <vector>

#include "engine/model/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  // Aligned as a mapping is, and an end that the sanitizer watches.
  std::vector<uint64_t> words((size + 7) / 8);
  if (size > 0) std::memcpy(words.data(), data, size);
  const std::string_view content(reinterpret_cast<const char*>(words.data()), size);
  const auto tensors = kascade::parse_safetensors("file", content);
  if (!tensors.ok()) return 0;
  unsigned sum = 0;
  for (const auto& [name, tensor] : *tensors) {
    for (int64_t i = 0; i < tensor.bytes; ++i) sum += static_cast<unsigned>(tensor.data[i]);
  }
  volatile unsigned used = sum;
  static_cast<void>(used);
  return 0;
}
