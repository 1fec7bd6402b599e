// GPT-2's spelling of bytes: each byte is written as one printable character ("Ġ" is a space), so
// that a vocabulary of byte strings can be kept as text.
#ifndef KASCADE_ENGINE_TOKENIZER_BYTE_ALPHABET_H_
#define KASCADE_ENGINE_TOKENIZER_BYTE_ALPHABET_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace kascade::bpe {

std::string spelling_of(uint8_t byte);

// The bytes that `text` (valid UTF-8) spells; nothing when a character stands for no byte.
std::optional<std::string> spelled_bytes(std::string_view text);

}  // namespace kascade::bpe

#endif  // KASCADE_ENGINE_TOKENIZER_BYTE_ALPHABET_H_
