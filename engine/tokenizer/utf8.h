// UTF-8 at the byte level: checking, replacing what is broken, walking characters.
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
  size_t length;  // bytes; of a broken unit those that one U+FFFD stands for
};

// The unit at the start of `bytes`, which must not be empty. A broken unit is the longest start of
// a character ("maximal subpart", Unicode 3.9), so that the verdict never depends on what follows.
Utf8Unit first_utf8_unit(std::string_view bytes);

// Length of the longest valid start of `bytes`.
size_t valid_utf8_length(std::string_view bytes);

// Appends `bytes` with U+FFFD for each broken unit. A character cut off at the end is left alone
// unless `at_end`. Returns the number of bytes used.
size_t append_valid_utf8(std::string_view bytes, bool at_end, std::string& out);

// Length of the character that starts with `lead` in valid UTF-8.
size_t utf8_length(char lead);
// The code point of one character in valid UTF-8.
uint32_t code_point(std::string_view character);
void append_code_point(uint32_t code_point, std::string& out);

// Bytes of white space (the property White_Space) at either end of valid UTF-8.
size_t leading_space_length(std::string_view text);
size_t trailing_space_length(std::string_view text);

}  // namespace kascade::bpe

#endif  // KASCADE_ENGINE_TOKENIZER_UTF8_H_
