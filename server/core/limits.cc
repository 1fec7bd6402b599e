#include "server/core/limits.h"

#include "absl/strings/str_cat.h"

namespace kascade::core {

absl::Status check_text_count(const std::string& field, size_t count) {
  if (count >= 1 && count <= size_t{kMaxTexts}) return absl::OkStatus();
  return invalid_field(field, absl::StrCat("must be 1 to ", kMaxTexts, ", got ", count));
}

absl::Status check_max_tokens_per_text(int32_t tokens) {
  return check_range("max_tokens_per_text", tokens, 1, kMaxTokensPerText);
}

}  // namespace kascade::core
