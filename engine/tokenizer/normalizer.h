// The `normalizer` of a tokenizer.json: what is done to the text before it is cut up.
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

namespace kascade::bpe {

void replace_all(std::string& text, std::string_view from, std::string_view to);

class Normalizer {
 public:
  // `json`: the field's value, nullptr when it is absent or null.
  static absl::StatusOr<Normalizer> parse(const Json* json);

  bool changes_nothing() const { return steps_.empty(); }
  // RESOURCE_EXHAUSTED when a pattern takes too many steps.
  absl::StatusOr<std::string> apply(std::string_view text) const;

 private:
  // Replaces what `pattern` matches by `to`, or `from`; without either puts `to` in front.
  struct Step {
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
