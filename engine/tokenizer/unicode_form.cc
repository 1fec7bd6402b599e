#include "engine/tokenizer/unicode_form.h"

#include <utf8proc.h>

#include <cstdlib>
#include <memory>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace kascade::bpe {
namespace {

struct FreeBytes {
  void operator()(utf8proc_uint8_t* bytes) const { std::free(bytes); }
};

bool is_ascii(char c) { return static_cast<signed char>(c) >= 0; }

utf8proc_option_t options_of(UnicodeForm form) {
  int options = UTF8PROC_STABLE;
  const bool composes = form == UnicodeForm::kNfc || form == UnicodeForm::kNfkc;
  options |= composes ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE;
  if (form == UnicodeForm::kNfkc || form == UnicodeForm::kNfkd) options |= UTF8PROC_COMPAT;
  return static_cast<utf8proc_option_t>(options);
}

absl::Status append(std::string_view stretch, utf8proc_option_t options, std::string& out) {
  utf8proc_uint8_t* bytes = nullptr;
  const utf8proc_ssize_t length =
      utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(stretch.data()),
                   static_cast<utf8proc_ssize_t>(stretch.size()), &bytes, options);
  const std::unique_ptr<utf8proc_uint8_t, FreeBytes> owner(bytes);
  if (length < 0) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "a stretch of ", stretch.size(), " bytes cannot be normalised: ", utf8proc_errmsg(length)));
  }
  out.append(reinterpret_cast<const char*>(bytes), static_cast<size_t>(length));
  return absl::OkStatus();
}

}  // namespace

std::optional<UnicodeForm> unicode_form_of(std::string_view name) {
  if (name == "NFC") return UnicodeForm::kNfc;
  if (name == "NFD") return UnicodeForm::kNfd;
  if (name == "NFKC") return UnicodeForm::kNfkc;
  if (name == "NFKD") return UnicodeForm::kNfkd;
  return std::nullopt;
}

// No form changes an ASCII character, joins it to a character before it, or moves a mark across it;
// but a mark behind it may join it. So ASCII text is copied, except for its last character.
absl::StatusOr<std::string> to_unicode_form(std::string_view text, UnicodeForm form) {
  std::string out;
  out.reserve(text.size());
  while (!text.empty()) {
    size_t ascii = 0;
    while (ascii < text.size() && is_ascii(text[ascii])) ++ascii;
    if (ascii == text.size()) {
      out += text;
      break;
    }
    const size_t begin = ascii > 0 ? ascii - 1 : 0;
    size_t end = ascii;
    while (end < text.size() && !is_ascii(text[end])) ++end;
    out += text.substr(0, begin);
    const absl::Status status = append(text.substr(begin, end - begin), options_of(form), out);
    if (!status.ok()) return status;
    text.remove_prefix(end);
  }
  return out;
}

}  // namespace kascade::bpe
