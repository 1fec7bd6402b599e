// What the fuzz targets of the tokenizer have in common.
#ifndef KASCADE_TESTS_FUZZ_ENCODE_AND_DECODE_H_
#define KASCADE_TESTS_FUZZ_ENCODE_AND_DECODE_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "absl/status/statusor.h"
#include "engine/base/check.h"
#include "engine/tokenizer/tokenizer.h"

namespace kascade::testing {

// What is before the first NUL byte, and what is behind it.
inline std::pair<std::string_view, std::string_view> text_and_file(const uint8_t* data,
                                                                   size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  const size_t border = bytes.find('\0');
  if (border == bytes.npos) return {"", bytes};
  return {bytes.substr(0, border), bytes.substr(border + 1)};
}

// The text after encoding and decoding; nothing if the tokenizer or the text is refused.
inline std::optional<std::string> encode_and_decode(
    const absl::StatusOr<std::unique_ptr<Tokenizer>>& tokenizer, std::string_view text) {
  if (!tokenizer.ok()) return std::nullopt;
  for (int32_t id = 0; id < (*tokenizer)->vocab_size(); ++id) {
    (void)(*tokenizer)->token_bytes(id);
    (void)(*tokenizer)->token_text(id);
  }
  (void)(*tokenizer)->encode(text, {.parse_special_tokens = true});
  const auto ids = (*tokenizer)->encode(text, {.add_special_tokens = false});
  if (!ids.ok()) return std::nullopt;
  const auto decoded = (*tokenizer)->decode(*ids, /*skip_special=*/false);
  KASCADE_CHECK(decoded.ok());
  return *decoded;
}

}  // namespace kascade::testing

#endif  // KASCADE_TESTS_FUZZ_ENCODE_AND_DECODE_H_
