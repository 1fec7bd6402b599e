// A text up to the first NUL byte, then a tokenizer.json that encodes and decodes it.
#include <cstddef>
#include <cstdint>

#include "tests/fuzz/encode_and_decode.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto [text, json] = kascade::testing::text_and_file(data, size);
  kascade::testing::encode_and_decode(kascade::parse_tokenizer_json(json), text);
  return 0;
}
