#include "engine/tokenizer/utf8.h"

namespace kascade::bpe {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";

// After some first bytes the range of the second byte is restricted, to exclude overlong forms,
// surrogates and code points above U+10FFFF.
bool is_second_byte(uint8_t lead, uint8_t byte) {
  switch (lead) {
    case 0xE0:
      return byte >= 0xA0 && byte <= 0xBF;
    case 0xED:
      return byte >= 0x80 && byte <= 0x9F;
    case 0xF0:
      return byte >= 0x90 && byte <= 0xBF;
    case 0xF4:
      return byte >= 0x80 && byte <= 0x8F;
    default:
      return (byte & 0xC0) == 0x80;
  }
}

// Whether the code point has the Unicode property White_Space.
bool is_space(uint32_t c) {
  return (c >= 0x09 && c <= 0x0D) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
         c == 0x3000;
}

}  // namespace

size_t utf8_length(char lead) {
  const auto byte = static_cast<uint8_t>(lead);
  if (byte < 0x80) return 1;
  if (byte < 0xE0) return 2;
  return byte < 0xF0 ? 3 : 4;
}

Utf8Unit first_utf8_unit(std::string_view bytes) {
  const auto lead = static_cast<uint8_t>(bytes[0]);
  if (lead < 0x80) return {Utf8Unit::Kind::kCharacter, 1};
  if (lead < 0xC2 || lead > 0xF4) return {Utf8Unit::Kind::kBroken, 1};
  const size_t length = utf8_length(bytes[0]);
  for (size_t i = 1; i < length; ++i) {
    if (i == bytes.size()) return {Utf8Unit::Kind::kCutOff, i};
    const auto byte = static_cast<uint8_t>(bytes[i]);
    const bool fits = i == 1 ? is_second_byte(lead, byte) : (byte & 0xC0) == 0x80;
    if (!fits) return {Utf8Unit::Kind::kBroken, i};
  }
  return {Utf8Unit::Kind::kCharacter, length};
}

size_t valid_utf8_length(std::string_view bytes) {
  size_t position = 0;
  while (position < bytes.size()) {
    const Utf8Unit unit = first_utf8_unit(bytes.substr(position));
    if (unit.kind != Utf8Unit::Kind::kCharacter) break;
    position += unit.length;
  }
  return position;
}

size_t append_valid_utf8(std::string_view bytes, bool at_end, std::string& out) {
  size_t position = 0;
  while (position < bytes.size()) {
    const Utf8Unit unit = first_utf8_unit(bytes.substr(position));
    if (unit.kind == Utf8Unit::Kind::kCutOff && !at_end) break;
    if (unit.kind == Utf8Unit::Kind::kCharacter) {
      out += bytes.substr(position, unit.length);
    } else {
      out += kReplacement;
    }
    position += unit.length;
  }
  return position;
}

uint32_t code_point(std::string_view character) {
  const auto lead = static_cast<uint8_t>(character[0]);
  if (lead < 0x80) return lead;
  uint32_t value = lead & (0x7Fu >> character.size());
  for (const char c : character.substr(1)) value = value << 6 | (static_cast<uint8_t>(c) & 0x3Fu);
  return value;
}

void append_code_point(uint32_t code_point, std::string& out) {
  const auto tail = [&](int shift) {
    out += static_cast<char>(0x80 | (code_point >> shift & 0x3F));
  };
  if (code_point < 0x80) {
    out += static_cast<char>(code_point);
  } else if (code_point < 0x800) {
    out += static_cast<char>(0xC0 | code_point >> 6);
    tail(0);
  } else if (code_point < 0x10000) {
    out += static_cast<char>(0xE0 | code_point >> 12);
    tail(6);
    tail(0);
  } else {
    out += static_cast<char>(0xF0 | code_point >> 18);
    tail(12);
    tail(6);
    tail(0);
  }
}

size_t leading_space_length(std::string_view text) {
  size_t position = 0;
  while (position < text.size()) {
    const size_t length = utf8_length(text[position]);
    if (!is_space(code_point(text.substr(position, length)))) break;
    position += length;
  }
  return position;
}

size_t trailing_space_length(std::string_view text) {
  size_t end = text.size();
  while (end > 0) {
    size_t begin = end - 1;
    while ((static_cast<uint8_t>(text[begin]) & 0xC0) == 0x80) --begin;
    if (!is_space(code_point(text.substr(begin, end - begin)))) break;
    end = begin;
  }
  return text.size() - end;
}

}  // namespace kascade::bpe
