// A text up to the first NUL byte, then a rank file. As no small file has a token for each byte,
// the missing ones follow the file's own.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>

#include "engine/base/check.h"
#include "engine/tokenizer/vocabulary_files.h"
#include "tests/fuzz/encode_and_decode.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto [text, file] = kascade::testing::text_and_file(data, size);
  auto vocabulary = kascade::parse_tiktoken(file);
  if (!vocabulary.ok()) return 0;
  auto& tokens = vocabulary->tokens;
  for (int byte = 0; byte < 256; ++byte) {
    const std::string single(1, static_cast<char>(byte));
    if (std::find(tokens.begin(), tokens.end(), single) == tokens.end()) tokens.push_back(single);
  }
  const auto json = kascade::to_tokenizer_json(*vocabulary);
  if (!json.ok()) return 0;
  const auto tokenizer = kascade::parse_tokenizer_json(*json);
  KASCADE_CHECK(tokenizer.ok());
  const auto decoded = kascade::testing::encode_and_decode(tokenizer, text);
  // Every byte has a token, so that every text comes back.
  KASCADE_CHECK(!decoded || *decoded == text);
  return 0;
}
