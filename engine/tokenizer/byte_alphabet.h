// GPT-2's byte alphabet: each byte is written as one printable character ("Ġ" is a space), so that
// a vocabulary of byte strings can be stored as text.
#ifndef KASCADE_ENGINE_TOKENIZER_BYTE_ALPHABET_H_
#define KASCADE_ENGINE_TOKENIZER_BYTE_ALPHABET_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace kascade::bpe {

std::string spelling_of(uint8_t byte);

// Returns the bytes that `text` (valid UTF-8) spells, or nullopt if a character of it stands for no
// byte.
std::optional<std::string> spelled_bytes(std::string_view text);

}  // namespace kascade::bpe

#endif  // KASCADE_ENGINE_TOKENIZER_BYTE_ALPHABET_H_
