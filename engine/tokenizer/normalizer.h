// The normalizer of a tokenizer.json (field `normalizer`): changes the text before the
// pre-tokenizer splits it.
#ifndef KASCADE_ENGINE_TOKENIZER_NORMALIZER_H_
#define KASCADE_ENGINE_TOKENIZER_NORMALIZER_H_

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/tokenizer/json_fields.h"
#include "engine/tokenizer/pattern.h"
#include "engine/tokenizer/unicode_form.h"

namespace kascade::bpe {

void replace_all(std::string& text, std::string_view from, std::string_view to);

class Normalizer {
 public:
  // `json` is the value of the field, or nullptr when it is absent or null.
  static absl::StatusOr<Normalizer> parse(const Json* json);

  bool changes_nothing() const { return steps_.empty(); }
  // Whether a text that is cut at a word end (word_end.h) becomes the same in two parts. Unicode's
  // forms join no letter with white space behind it, nor with what follows that.
  bool keeps_word_ends() const;
  // RESOURCE_EXHAUSTED when a regular expression takes too many steps or there is no memory.
  absl::StatusOr<std::string> apply(std::string_view text) const;

  // Upper bound on the memory that apply() takes for a text of so many bytes, its result included
  // [bytes].
  size_t most_memory(size_t text_bytes) const;
  // A text never becomes shorter than its bytes divided by this. Unset where there is no such
  // bound.
  std::optional<size_t> most_shortening() const;

 private:
  // Brings the text into a normalization form, or replaces every match of `pattern`, or every
  // occurrence of `from`, by `to`. If all three are unset, puts `to` before the text.
  struct Step {
    std::optional<UnicodeForm> form{};
    std::optional<Pattern> pattern{};
    std::string from{};
    std::string to{};
  };

  absl::Status add(const Json& json, const std::string& path);
  absl::Status add_replace(ObjectReader& reader);

  std::vector<Step> steps_;
};

}  // namespace kascade::bpe

#endif  // KASCADE_ENGINE_TOKENIZER_NORMALIZER_H_
