// A file of packed weights, against the layout that the corpus was written by.
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "engine/model/packed_file.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view content(reinterpret_cast<const char*>(data), size);
  const kascade::PackedLayout layout(
      "key", {{"layers.0.qkv", "int8-panels-1", 3, 5, 64}, {"head.0", "int8-panels-1", 2, 4, 192}});
  const kascade::PackedSource source{.times = std::string(64, 'a'),
                                     .checksum = [] { return uint64_t{7}; }};
  static_cast<void>(layout.check("file", content, source));
  return 0;
}
