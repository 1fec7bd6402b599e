// The pre-tokenizer of a tokenizer.json (field `pre_tokenizer`): splits text into pieces, each of
// which the BPE model then encodes by itself.
#ifndef KASCADE_ENGINE_TOKENIZER_PRE_TOKENIZER_H_
#define KASCADE_ENGINE_TOKENIZER_PRE_TOKENIZER_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/tokenizer/json_fields.h"
#include "engine/tokenizer/pattern.h"
#include "engine/tokenizer/word_end.h"

namespace kascade::bpe {

class PreTokenizer {
 public:
  // `json` is the value of the field, or nullptr when it is absent or null.
  static absl::StatusOr<PreTokenizer> parse(const Json* json);

  // Whether merging starts from single bytes; otherwise it starts from single characters.
  bool is_byte_level() const { return byte_level_; }

  // Upper bound on the memory of the copies that split() makes of a text of so many bytes [bytes].
  size_t most_memory(size_t text_bytes) const;
  // Whether every word end (word_end.h) is a border of pieces, and a text that is cut there has the
  // same pieces.
  bool splits_at_word_ends() const;
  // Whether parts of a text become no piece.
  bool drops_text() const;

  // Calls `sink` for each piece of `text` (valid UTF-8). `at_start` says whether `text` is at the
  // start of the whole input.
  absl::Status split(std::string_view text, bool at_start, const PieceSink& sink) const {
    return run(text, at_start, 0, sink);
  }

 private:
  enum class KeptPieces : uint8_t { kAll, kMatches, kGaps };

  // Each pre-tokenizer is a list of steps. A step does the following, in this order; parts that are
  // unset are skipped.
  struct Step {
    std::string space{};   // if not empty, replaces each ' '
    std::string prefix{};  // is put before a text that does not start with it
    bool prefix_at_start_only = false;
    // splits the text into its matches and the stretches between them, and keeps `kept`
    std::optional<Pattern> pattern{};
    KeptPieces kept = KeptPieces::kAll;
    WordEnds word_ends = WordEnds::kUnknown;
  };

  absl::Status add(const Json& json, const std::string& path);
  absl::Status add_byte_level(ObjectReader& reader);
  absl::Status add_split(ObjectReader& reader);
  absl::Status add_digits(ObjectReader& reader);
  absl::Status add_punctuation(ObjectReader& reader);
  absl::Status add_metaspace(ObjectReader& reader);
  absl::Status add_pattern(std::string_view pattern);
  absl::Status run(std::string_view text, bool at_start, size_t step, const PieceSink& sink) const;

  std::vector<Step> steps_;
  bool byte_level_ = false;
};

// Reads the field `prepend_scheme` of a Metaspace pre-tokenizer or decoder. Older files have
// `add_prefix_space` instead.
enum class PrependScheme { kNever, kFirst, kAlways };
PrependScheme read_prepend_scheme(ObjectReader& reader);
// Reads the field `replacement` of a Metaspace pre-tokenizer or decoder, which is one character.
std::string read_replacement(ObjectReader& reader);

}  // namespace kascade::bpe

#endif  // KASCADE_ENGINE_TOKENIZER_PRE_TOKENIZER_H_
