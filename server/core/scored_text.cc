#include "server/core/scored_text.h"

#include <utility>

#include "engine/tokenizer/utf8.h"

namespace kascade::core {
namespace {

// Python's str.isspace(), which `\s` goes by: Unicode's white space and four control characters.
bool is_space(uint32_t c) {
  if (c < 0x80) return (c >= 0x09 && c <= 0x0d) || (c >= 0x1c && c <= 0x20);
  return c == 0x85 || c == 0xa0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200a) || c == 0x2028 ||
         c == 0x2029 || c == 0x202f || c == 0x205f || c == 0x3000;
}

}  // namespace

void TextCounter::add(std::string_view piece) {
  bytes_ += static_cast<int64_t>(piece.size());
  if (rest_.empty()) {
    rest_ = piece.substr(take(piece));
    return;
  }
  const std::string joined = std::exchange(rest_, {}) + std::string(piece);
  rest_ = joined.substr(take(joined));
}

size_t TextCounter::take(std::string_view piece) {
  size_t done = 0;
  while (done < piece.size()) {
    const std::string_view left = piece.substr(done);
    const auto lead = static_cast<unsigned char>(left.front());
    if (lead < 0x80) {
      take(is_space(lead));
      ++done;
      continue;
    }
    const bpe::Utf8Unit unit = bpe::first_utf8_unit(left);
    // The start of a character may be the end of the text, where it is a word's.
    if (unit.kind == bpe::Utf8Unit::Kind::kCutOff) break;
    take(unit.kind == bpe::Utf8Unit::Kind::kCharacter &&
         is_space(bpe::code_point(left.substr(0, unit.length))));
    done += unit.length;
  }
  return done;
}

std::string_view without_trailing_space(std::string_view text) {
  while (!text.empty()) {
    // Of a text that is UTF-8, a character's first byte is the last that is no continuation.
    size_t begin = text.size() - 1;
    while (begin > 0 && (static_cast<unsigned char>(text[begin]) & 0xc0) == 0x80) --begin;
    const std::string_view last = text.substr(begin);
    const bpe::Utf8Unit unit = bpe::first_utf8_unit(last);
    const bool whole = unit.kind == bpe::Utf8Unit::Kind::kCharacter && unit.length == last.size();
    if (!whole || !is_space(bpe::code_point(last))) break;
    text.remove_suffix(text.size() - begin);
  }
  return text;
}

std::string_view spelling(const Tokenizer& tokenizer, Token token) {
  if (token >= tokenizer.vocab_size()) return {};
  return tokenizer.is_special(token) ? tokenizer.token_text(token) : tokenizer.token_bytes(token);
}

}  // namespace kascade::core
