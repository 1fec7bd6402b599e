// Translates the syntax of Oniguruma to that of PCRE2 and refuses what is not known to mean the
// same in both. The differences that matter: PCRE2's \s also matches U+180E; \h and \w have other
// meanings; ^ and $ are those of a line in Oniguruma, of the whole text in PCRE2; character classes
// nest in Oniguruma.
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "engine/tokenizer/pattern.h"

namespace kascade::bpe {
namespace {

// The Unicode property White_Space, for use inside a character class.
constexpr std::string_view kSpaces = "\\t-\\r\\x{85}\\p{Z}";

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }

class Translator {
 public:
  explicit Translator(std::string_view pattern) : rest_(pattern), size_(pattern.size()) {}

  absl::StatusOr<std::string> run() {
    while (!rest_.empty() && status_.ok()) {
      if (in_class_) {
        class_item();
      } else {
        item();
      }
    }
    if (!status_.ok()) return status_;
    return out_;
  }

 private:
  void refuse(const char* what) {
    status_ = absl::UnimplementedError(absl::StrCat(
        "regular expression, byte ", size_ - rest_.size(), ": ", what, " is not supported"));
  }

  bool next_is(std::string_view text) const { return rest_.substr(0, text.size()) == text; }

  void keep(size_t count) {
    out_ += rest_.substr(0, count);
    rest_.remove_prefix(std::min(count, rest_.size()));
  }

  void item() {
    switch (rest_[0]) {
      case '\\':
        return escape();
      case '[':
        return open_class();
      case '(':
        return group();
      case '{':
        return repeat();
      case '^':
      case '$':
        return line_anchor();
      default:
        return keep(1);
    }
  }

  // Matches at the start or at the end of a line.
  void line_anchor() {
    out_ += "(?m:";
    keep(1);
    out_ += ')';
    if (next_is("*") || next_is("+") || next_is("?") || next_is("{")) {
      refuse("a quantifier behind an anchor");
    }
  }

  void open_class() {
    in_class_ = true;
    keep(next_is("[^") ? 2 : 1);
    if (next_is("]")) refuse("']' at the start of a class");
  }

  void class_item() {
    if (rest_[0] == '\\') return escape();
    if (rest_[0] == '[') return refuse("a class inside a class");
    if (next_is("&&")) return refuse("'&&' in a class");
    if (rest_[0] == ']') in_class_ = false;
    keep(1);
  }

  void group() {
    if (!next_is("(?")) return keep(1);
    for (const std::string_view form : {"(?:", "(?=", "(?!", "(?<=", "(?<!", "(?>", "(?i:"}) {
      if (next_is(form)) return keep(form.size());
    }
    refuse("this kind of group");
  }

  // Quantifiers {n}, {n,} and {n,m}. A sign after one means "possessive" or "lazy" in only one of
  // the two syntaxes.
  void repeat() {
    size_t end = 1;
    while (end < rest_.size() && is_digit(rest_[end])) ++end;
    const bool has_count = end > 1;
    if (end < rest_.size() && rest_[end] == ',') ++end;
    while (end < rest_.size() && is_digit(rest_[end])) ++end;
    if (!has_count || end == rest_.size() || rest_[end] != '}') return refuse("this use of '{'");
    keep(end + 1);
    if (next_is("+") || next_is("?")) refuse("a sign behind '}'");
  }

  void escape() {
    if (rest_.size() < 2) return refuse("a lone backslash");
    const char c = rest_[1];
    if (c == 's') return replace(in_class_ ? "" : "[", in_class_ ? "" : "]");
    if (c == 'S' && !in_class_) return replace("[^", "]");
    if (c == 'p' || c == 'P') return property();
    const bool same = c == 'r' || c == 'n' || c == 't' || c == 'd' || c == 'D';
    if (same || (!is_letter(c) && !is_digit(c) && static_cast<signed char>(c) > 0)) return keep(2);
    refuse("this escape");
  }

  void replace(std::string_view before, std::string_view after) {
    out_ += before;
    out_ += kSpaces;
    out_ += after;
    rest_.remove_prefix(2);
  }

  void property() {
    size_t end = 3;
    while (end < rest_.size() && (is_letter(rest_[end]) || rest_[end] == '_')) ++end;
    if (!next_is("\\p{") && !next_is("\\P{")) return refuse("a property without braces");
    if (end == 3 || end == rest_.size() || rest_[end] != '}') return refuse("this property");
    keep(end + 1);
  }

  std::string_view rest_;
  size_t size_;
  bool in_class_ = false;
  std::string out_{};
  absl::Status status_{};
};

}  // namespace

absl::StatusOr<std::string> pcre2_pattern_of(std::string_view pattern) {
  return Translator(pattern).run();
}

}  // namespace kascade::bpe
