// The opcode stream of a PyTorch checkpoint.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "tools/convert/pickle.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view stream(reinterpret_cast<const char*>(data), size);
  const auto pickle = kascade::convert::read_pickle(stream, "fuzz");
  if (pickle.ok() && pickle->root >= pickle->values.size()) __builtin_trap();
  return 0;
}
