// UTF-8 at the byte level: validates text, replaces invalid bytes and iterates over characters.
#ifndef KASCADE_ENGINE_TOKENIZER_UTF8_H_
#define KASCADE_ENGINE_TOKENIZER_UTF8_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace kascade::bpe {

struct Utf8Unit {
  enum class Kind { kCharacter, kBroken, kCutOff };
  Kind kind;
  size_t length;  // in bytes; a broken unit is replaced by one U+FFFD
};

// Returns the unit at the start of `bytes`, which must not be empty. A broken unit is the longest
// prefix of a valid character ("maximal subpart", Unicode 3.9), so that the result never depends on
// the bytes after it.
Utf8Unit first_utf8_unit(std::string_view bytes);

// Returns the length of the longest valid prefix of `bytes`.
size_t valid_utf8_length(std::string_view bytes);

// Appends `bytes` to `out` with U+FFFD in place of each broken unit. A character that is cut off at
// the end is not appended unless `at_end`. Returns the number of bytes consumed.
size_t append_valid_utf8(std::string_view bytes, bool at_end, std::string& out);

// Returns the length of the character whose first byte is `lead`, in valid UTF-8.
size_t utf8_length(char lead);
// Returns the code point of one character in valid UTF-8.
uint32_t code_point(std::string_view character);
void append_code_point(uint32_t code_point, std::string& out);

// Return the number of bytes of white space (Unicode property White_Space) at the start or the end
// of valid UTF-8.
size_t leading_space_length(std::string_view text);
size_t trailing_space_length(std::string_view text);

}  // namespace kascade::bpe

#endif  // KASCADE_ENGINE_TOKENIZER_UTF8_H_
