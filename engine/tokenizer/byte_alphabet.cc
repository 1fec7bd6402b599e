#include "engine/tokenizer/byte_alphabet.h"

#include <array>

#include "engine/tokenizer/utf8.h"

namespace kascade::bpe {
namespace {

// Printable Latin-1 characters stand for themselves; the other 68 bytes are written as U+0100 and
// upwards, in order.
constexpr bool stands_for_itself(int byte) {
  return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
}

struct Alphabet {
  std::array<uint16_t, 256> character_of{};
  std::array<int16_t, 0x100 + 68> byte_of{};

  constexpr Alphabet() {
    byte_of.fill(-1);
    uint16_t next = 0x100;
    for (int byte = 0; byte < 256; ++byte) {
      const auto character = stands_for_itself(byte) ? static_cast<uint16_t>(byte) : next++;
      character_of[byte] = character;
      byte_of[character] = static_cast<int16_t>(byte);
    }
  }
};

constexpr Alphabet kAlphabet;

}  // namespace

std::string spelling_of(uint8_t byte) {
  std::string spelling;
  append_code_point(kAlphabet.character_of[byte], spelling);
  return spelling;
}

std::optional<std::string> spelled_bytes(std::string_view text) {
  std::string bytes;
  for (size_t i = 0; i < text.size();) {
    const size_t length = utf8_length(text[i]);
    const uint32_t character = code_point(text.substr(i, length));
    if (character >= kAlphabet.byte_of.size()) return std::nullopt;
    const int byte = kAlphabet.byte_of[character];
    if (byte < 0) return std::nullopt;
    bytes += static_cast<char>(byte);
    i += length;
  }
  return bytes;
}

}  // namespace kascade::bpe
