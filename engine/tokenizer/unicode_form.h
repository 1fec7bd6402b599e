// The normalization forms of Unicode (Unicode Standard Annex #15).
#ifndef KASCADE_ENGINE_TOKENIZER_UNICODE_FORM_H_
#define KASCADE_ENGINE_TOKENIZER_UNICODE_FORM_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace kascade::bpe {

// C composes characters with their marks, D decomposes them; K also replaces characters by the
// plain ones that they are compatible with ("ﬁ" by "fi").
enum class UnicodeForm : uint8_t { kNfc, kNfd, kNfkc, kNfkd };

// The form that a tokenizer.json calls `name` ("NFC", "NFD", "NFKC", "NFKD"); unset for other
// names.
std::optional<UnicodeForm> unicode_form_of(std::string_view name);

// Returns `text` (valid UTF-8) in that form. RESOURCE_EXHAUSTED if there is no memory for it.
absl::StatusOr<std::string> to_unicode_form(std::string_view text, UnicodeForm form);

}  // namespace kascade::bpe

#endif  // KASCADE_ENGINE_TOKENIZER_UNICODE_FORM_H_
