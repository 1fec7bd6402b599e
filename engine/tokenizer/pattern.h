// The regular expressions of a tokenizer.json, run by PCRE2 with Unicode character classes. A
// Pattern is immutable and safe for any number of threads.
#ifndef KASCADE_ENGINE_TOKENIZER_PATTERN_H_
#define KASCADE_ENGINE_TOKENIZER_PATTERN_H_

#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

struct pcre2_real_code_8;

namespace kascade::bpe {

using PieceSink = std::function<absl::Status(std::string_view)>;

// The expressions in tokenizer.json files follow the syntax of Oniguruma. Rewrites `pattern` so
// that PCRE2 interprets it in the same way. INVALID_ARGUMENT names a construct whose meaning
// differs in PCRE2 or is not known to be the same.
absl::StatusOr<std::string> pcre2_pattern_of(std::string_view pattern);

class Pattern {
 public:
  // Compiles a regular expression in Oniguruma's syntax.
  static absl::StatusOr<Pattern> compile(std::string_view pattern);
  // Compiles a pattern that matches exactly `text`.
  static absl::StatusOr<Pattern> compile_literal(std::string_view text);

  // Calls `sink` in order for each match and for each stretch between matches; concatenated, they
  // give `text` (valid UTF-8). RESOURCE_EXHAUSTED when a match takes too many steps.
  absl::Status split(std::string_view text, const PieceSink& sink) const;

  // Calls `sink` for each match alone, or for each stretch between matches alone.
  absl::Status find_matches(std::string_view text, const PieceSink& sink) const;
  absl::Status find_gaps(std::string_view text, const PieceSink& sink) const;

  // Returns `text` with each match replaced by `by`. Errors are those of split().
  absl::StatusOr<std::string> replace(std::string_view text, std::string_view by) const;

 private:
  struct FreeCode {
    void operator()(pcre2_real_code_8* code) const;
  };

  static absl::StatusOr<Pattern> compile(std::string_view pattern, uint32_t options);
  // Calls `on_match` for each match and `on_gap` for each stretch between matches, in order.
  absl::Status walk(std::string_view text, const PieceSink& on_gap,
                    const PieceSink& on_match) const;

  std::unique_ptr<pcre2_real_code_8, FreeCode> code_;
};

}  // namespace kascade::bpe

#endif  // KASCADE_ENGINE_TOKENIZER_PATTERN_H_
