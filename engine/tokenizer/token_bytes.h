// The `decoder` of a tokenizer.json: the bytes that each token stands for.
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
  // `byte_level`: whether the pre_tokenizer is; the decoder must be its counterpart. `json` may be
  // nullptr, which is refused: without a decoder tokens would be joined by spaces.
  static absl::StatusOr<TokenDecoder> parse(const Json* json, bool byte_level);

  std::string bytes_of(const VocabularyEntry& entry) const;
  bool strips_leading_space() const { return strips_leading_space_; }

 private:
  // Replaces `from` by `to` in a token's text; an empty `from` reads "<0x0A>" as that byte.
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
