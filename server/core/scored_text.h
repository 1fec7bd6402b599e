// What scored tokens stand for: bytes and words of text.
#ifndef KASCADE_SERVER_CORE_SCORED_TEXT_H_
#define KASCADE_SERVER_CORE_SCORED_TEXT_H_

#include <cstdint>
#include <string>
#include <string_view>

#include "engine/request.h"
#include "engine/tokenizer/tokenizer.h"

namespace kascade::core {

// Counts a text that comes in pieces, which may end within a character.
class TextCounter {
 public:
  void add(std::string_view piece);

  int64_t bytes() const { return bytes_; }
  // Parts of the text when it is cut at every run of white space, empty ones at its ends included:
  // len(re.split(r"\s+", text)) in Python, but 0 for no bytes.
  int64_t words() const { return bytes_ == 0 ? 0 : spaces_ + 1; }

 private:
  // Returns how many bytes were taken; the rest is the beginning of a character.
  size_t take(std::string_view piece);
  void take(bool is_space) {
    spaces_ += is_space && !in_space_ ? 1 : 0;
    in_space_ = is_space;
  }

  std::string rest_;  // beginning of a character
  int64_t bytes_ = 0;
  int64_t spaces_ = 0;  // runs of white space
  bool in_space_ = false;
};

// Python's str.rstrip().
std::string_view without_trailing_space(std::string_view text);

// What the token adds to a text, special ones as they are spelled; ids beyond the tokenizer's
// nothing.
std::string_view spelling(const Tokenizer& tokenizer, Token token);

}  // namespace kascade::core

#endif  // KASCADE_SERVER_CORE_SCORED_TEXT_H_
