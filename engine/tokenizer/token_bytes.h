// The decoder of a tokenizer.json (field `decoder`): maps each token to the bytes that it adds to
// the text.
#ifndef KASCADE_ENGINE_TOKENIZER_TOKEN_BYTES_H_
#define KASCADE_ENGINE_TOKENIZER_TOKEN_BYTES_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/tokenizer/json_fields.h"
#include "engine/tokenizer/vocabulary.h"

namespace kascade::bpe {

class TokenDecoder {
 public:
  // `byte_level` says whether the pre-tokenizer is byte-level; the decoder must then be so too.
  // `json` is the value of the field. nullptr is refused, because a tokenizer without a decoder
  // joins tokens by spaces.
  static absl::StatusOr<TokenDecoder> parse(const Json* json, bool byte_level);

  std::string bytes_of(const VocabularyEntry& entry) const;
  bool strips_leading_space() const { return strips_leading_space_; }

 private:
  // Replaces `from` by `to` in a token's text. An empty `from` means that a token spelled like
  // "<0x0A>" becomes that byte.
  struct Step {
    std::string from;
    std::string to;
  };

  absl::Status read_metaspace(ObjectReader& reader);
  absl::Status read_sequence(ObjectReader& reader);
  void read_part(ObjectReader& reader, bool& fused);

  bool byte_level_ = false;
  bool strips_leading_space_ = false;
  std::vector<Step> steps_;
};

}  // namespace kascade::bpe

#endif  // KASCADE_ENGINE_TOKENIZER_TOKEN_BYTES_H_
