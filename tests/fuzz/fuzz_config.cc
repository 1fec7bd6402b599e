// config.json and generation_config.json, divided at the first NUL byte.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "engine/model/config.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const size_t border = text.find('\0');
  const std::string_view second = border == text.npos ? "" : text.substr(border + 1);
  const auto config = kascade::parse_config(text.substr(0, border), second);
  if (config.ok()) kascade::rope_frequencies(*config);
  return 0;
}
