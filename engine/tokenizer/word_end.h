// Where a text can be cut without changing its tokens: behind a letter, before a space or a line
// break. A word end is such a place, for letters that every version of Unicode knows as letters.
#ifndef KASCADE_ENGINE_TOKENIZER_WORD_END_H_
#define KASCADE_ENGINE_TOKENIZER_WORD_END_H_

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace kascade::bpe {

// What a pattern of a pre-tokenizer makes of word ends. kBorders: a match ends and another one
// begins at each. kNoMatch: no match has characters on both sides, but that is all. In both cases
// no match on one side depends on the other side.
enum class WordEnds : uint8_t { kUnknown, kNoMatch, kBorders };

// By a list of known patterns: what a regular expression does cannot be read off it.
WordEnds word_ends_of(std::string_view pattern);

// Returns the last word end in `text` (valid UTF-8), or 0 if it has none.
size_t last_word_end(std::string_view text);

}  // namespace kascade::bpe

#endif  // KASCADE_ENGINE_TOKENIZER_WORD_END_H_
