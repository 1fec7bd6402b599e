// A tokenizer made from the parts of a tokenizer.json: normalizer, pre-tokenizer, BPE model,
// post-processor and decoder.
#ifndef KASCADE_ENGINE_TOKENIZER_BPE_TOKENIZER_H_
#define KASCADE_ENGINE_TOKENIZER_BPE_TOKENIZER_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/tokenizer/added_tokens.h"
#include "engine/tokenizer/bpe_model.h"
#include "engine/tokenizer/encoding_run.h"
#include "engine/tokenizer/json_fields.h"
#include "engine/tokenizer/normalizer.h"
#include "engine/tokenizer/post_processor.h"
#include "engine/tokenizer/pre_tokenizer.h"
#include "engine/tokenizer/tokenizer.h"
#include "engine/tokenizer/vocabulary.h"

namespace kascade::bpe {

class BpeTokenizer : public Tokenizer {
 public:
  static absl::StatusOr<std::unique_ptr<Tokenizer>> parse(const Json& json);

  int32_t vocab_size() const override { return vocabulary_.size(); }
  absl::StatusOr<std::vector<int32_t>> encode(std::string_view text,
                                              const EncodeOptions& options) const override;
  size_t independent_prefix(std::string_view text) const override;
  absl::StatusOr<std::vector<int32_t>> encode_parts(std::span<const PromptPart> parts,
                                                    const EncodingBounds& bounds) const override;
  absl::StatusOr<std::string> decode(std::span<const int32_t> ids,
                                     bool skip_special) const override;
  std::string_view token_bytes(int32_t id) const override;
  std::string_view token_text(int32_t id) const override;
  std::optional<int32_t> token_id(std::string_view token_text) const override;
  bool is_special(int32_t id) const override;
  std::span<const int32_t> prefix_tokens() const override { return around_.prefix; }
  std::span<const int32_t> suffix_tokens() const override { return around_.suffix; }
  bool strips_leading_space() const override { return strips_leading_space_; }

 private:
  // Encoding searches for added tokens twice: first in the original text, then in the normalised
  // form of what lies between the tokens found.
  struct Finders {
    AddedTokenFinder in_text;
    AddedTokenFinder in_normalised;
    // Most bytes of text that one token stands for; unset where there is no bound.
    std::optional<size_t> longest_token{};
  };

  absl::Status read_parts(ObjectReader& file);
  absl::Status read_vocabulary(ObjectReader& file);
  absl::Status index_added_tokens();
  bool words_are_independent() const;
  std::optional<size_t> longest_token(const Finders& finders) const;
  absl::Status append_text(std::string_view text, bool at_start, const Finders& finders,
                           EncodingRun& run) const;
  // The text of a part without the white space that the tokens beside it consume.
  std::string_view stripped_text(std::span<const PromptPart> parts, size_t index) const;
  absl::Status append_stretch(std::string_view text, bool at_start, const Finders& finders,
                              EncodingRun& run) const;
  absl::StatusOr<std::string> normalise(std::string_view text, EncodingRun& run) const;

  Vocabulary vocabulary_;
  std::vector<std::string> bytes_;  // by id; empty for special tokens and for ids without a token
  Finders all_added_;
  Finders plain_added_;  // the added tokens that are not special
  Normalizer normalizer_;
  PreTokenizer pre_tokenizer_;
  BpeModel model_;
  PostProcessor around_;
  bool strips_leading_space_ = false;
  bool words_are_independent_ = false;
};

}  // namespace kascade::bpe

#endif  // KASCADE_ENGINE_TOKENIZER_BPE_TOKENIZER_H_
