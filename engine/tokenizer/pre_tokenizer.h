// The `pre_tokenizer` of a tokenizer.json: cuts text into the pieces that are merged one by one.
#ifndef KASCADE_ENGINE_TOKENIZER_PRE_TOKENIZER_H_
#define KASCADE_ENGINE_TOKENIZER_PRE_TOKENIZER_H_

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/tokenizer/json_fields.h"
#include "engine/tokenizer/pattern.h"

namespace kascade::bpe {

class PreTokenizer {
 public:
  // `json`: the field's value, nullptr when it is absent or null.
  static absl::StatusOr<PreTokenizer> parse(const Json* json);

  // Whether the symbols to merge are bytes; otherwise they are characters.
  bool is_byte_level() const { return byte_level_; }

  // Calls `sink` for each piece. `at_start`: `text` (valid UTF-8) starts the whole text.
  absl::Status split(std::string_view text, bool at_start, const PieceSink& sink) const {
    return run(text, at_start, 0, sink);
  }

 private:
  // Every kind of pre-tokenizer is some of these, in this order.
  struct Step {
    std::string space{};   // replaces each ' ' when not empty
    std::string prefix{};  // put in front of a text that does not start with it
    bool prefix_at_start_only = false;
    std::optional<Pattern> pattern{};  // matches and what lies between them become pieces
  };

  absl::Status add(const Json& json, const std::string& path);
  absl::Status add_byte_level(ObjectReader& reader);
  absl::Status add_split(ObjectReader& reader);
  absl::Status add_digits(ObjectReader& reader);
  absl::Status add_metaspace(ObjectReader& reader);
  absl::Status run(std::string_view text, bool at_start, size_t step, const PieceSink& sink) const;

  std::vector<Step> steps_;
  bool byte_level_ = false;
};

// The `prepend_scheme` of a Metaspace pre-tokenizer or decoder; older files say it with
// `add_prefix_space`.
enum class PrependScheme { kNever, kFirst, kAlways };
PrependScheme read_prepend_scheme(ObjectReader& reader);
// The `replacement` of a Metaspace, one character.
std::string read_replacement(ObjectReader& reader);

}  // namespace kascade::bpe

#endif  // KASCADE_ENGINE_TOKENIZER_PRE_TOKENIZER_H_
