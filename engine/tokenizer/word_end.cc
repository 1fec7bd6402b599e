#include "engine/tokenizer/word_end.h"

#include <algorithm>

#include "engine/tokenizer/utf8.h"
#include "engine/tokenizer/word_patterns.h"

namespace kascade::bpe {
namespace {

// Each of them matches a run of letters up to its end, begins anew at white space, and looks
// neither behind a match nor beyond a letter.
constexpr std::string_view kWordPatterns[] = {kGpt2Pattern, kLlama3Pattern, kQwen2Pattern,
                                              kTekkenPattern};
// Digits and line breaks alone.
constexpr std::string_view kOtherPatterns[] = {"\\p{N}", "\\p{N}+", "\\p{N}{1,3}", "[\r\n]"};

// Letters of Unicode 3 in scripts that separate words or lines by white space.
struct Range {
  uint32_t first, last;
};
constexpr Range kLetters[] = {{'A', 'Z'},       {'a', 'z'},       {0x410, 0x44f},  {0x3041, 0x3094},
                              {0x30a1, 0x30fa}, {0x4e00, 0x9fa5}, {0xac00, 0xd7a3}};

bool is_letter(uint32_t c) {
  return std::ranges::any_of(
      kLetters, [c](const Range& range) { return range.first <= c && c <= range.last; });
}

bool contains(auto& patterns, std::string_view pattern) {
  return std::ranges::find(patterns, pattern) != std::end(patterns);
}

}  // namespace

WordEnds word_ends_of(std::string_view pattern) {
  if (contains(kWordPatterns, pattern)) return WordEnds::kBorders;
  return contains(kOtherPatterns, pattern) ? WordEnds::kNoMatch : WordEnds::kUnknown;
}

size_t last_word_end(std::string_view text) {
  size_t end = text.find_last_of(" \n");
  while (end != std::string_view::npos && end > 0) {
    size_t begin = end - 1;
    while (begin > 0 && (static_cast<unsigned char>(text[begin]) & 0xc0) == 0x80) --begin;
    if (is_letter(code_point(text.substr(begin, end - begin)))) return end;
    end = text.find_last_of(" \n", end - 1);
  }
  return 0;
}

}  // namespace kascade::bpe
