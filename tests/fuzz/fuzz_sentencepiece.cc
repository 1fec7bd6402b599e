// A text up to the first NUL byte, then a SentencePiece model that encodes and decodes it.
#include <cstddef>
#include <cstdint>

#include "engine/base/check.h"
#include "engine/tokenizer/vocabulary_files.h"
#include "tests/fuzz/encode_and_decode.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto [text, model] = kascade::testing::text_and_file(data, size);
  const auto vocabulary = kascade::parse_sentencepiece(model);
  if (!vocabulary.ok()) return 0;
  const auto json = kascade::to_tokenizer_json(*vocabulary);
  if (!json.ok()) return 0;
  const auto tokenizer = kascade::parse_tokenizer_json(*json);
  KASCADE_CHECK(tokenizer.ok());  // what is made from a good vocabulary can be read
  kascade::testing::encode_and_decode(tokenizer, text);
  return 0;
}
