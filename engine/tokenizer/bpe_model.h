// The BPE model of a tokenizer.json (field `model`): turns one pre-tokenized piece of text into
// token ids.
#ifndef KASCADE_ENGINE_TOKENIZER_BPE_MODEL_H_
#define KASCADE_ENGINE_TOKENIZER_BPE_MODEL_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/tokenizer/encoding_run.h"
#include "engine/tokenizer/json_fields.h"
#include "engine/tokenizer/merges.h"
#include "engine/tokenizer/vocabulary.h"

namespace kascade::bpe {

// encode() never yields a special token, so that text cannot forge one: merges into special tokens
// are dropped, and special tokens are not matched as whole pieces or as characters. The only
// exception is unk_token, which stands for characters without a token.
class BpeModel {
 public:
  // Buffers that the caller keeps from one piece to the next, to save allocations.
  struct Scratch {
    std::vector<int32_t> symbols;
    MergeScratch merge;
  };

  // `vocabulary` must already hold model.vocab and the added tokens.
  static absl::StatusOr<BpeModel> parse(const Json& json, const Vocabulary& vocabulary,
                                        bool byte_level);

  // Appends the ids of `piece` (valid UTF-8) to those of `run`. A character that has neither a
  // token nor a byte fallback becomes unk_token; if the file names none, the character is dropped,
  // as in the reference implementation. Not OK: what `run` answered.
  absl::Status encode(std::string_view piece, Scratch& scratch, EncodingRun& run) const;

  // Most bytes of a piece that one token stands for. Unset where a token may stand for any number
  // of them: characters are dropped, or a row of unknown ones is fused.
  std::optional<size_t> longest_token() const { return longest_token_; }

 private:
  static constexpr int32_t kNone = -1;

  absl::Status read_unknown(ObjectReader& reader, const Vocabulary& vocabulary);
  // `ranks` gives the rank of each merge. If it is nullptr, the rank of a merge is its position in
  // the list.
  absl::Status read_merges(const Json& merges, const Json* ranks, const Vocabulary& vocabulary);
  void index_symbols(const Vocabulary& vocabulary, bool byte_fallback);
  void index_seam(std::string_view left, std::string_view right);
  int32_t find_character(std::string_view character) const;
  absl::Status append_symbols(std::string_view piece, EncodingRun& run,
                              std::vector<int32_t>& symbols) const;
  absl::Status append_bytes(std::string_view piece, EncodingRun& run,
                            std::vector<int32_t>& symbols) const;
  bool append_fallback(std::string_view character, std::vector<int32_t>& symbols) const;
  absl::Status merge_symbols(Scratch& scratch, EncodingRun& run) const;
  std::optional<size_t> find_longest_token(const Vocabulary& vocabulary) const;

  MergeTable merges_;
  StringMap<int32_t> whole_pieces_;          // filled only if the model sets ignore_merges
  std::array<int32_t, 256> byte_ids_{};      // token of each single byte, for byte-level models
  std::array<int32_t, 256> fallback_ids_{};  // tokens <0x00> … <0xFF>, for byte fallback
  // token of each single character, for other models
  absl::flat_hash_map<uint32_t, int32_t> characters_;
  int32_t unknown_id_ = kNone;
  std::optional<size_t> longest_token_{};
  bool fuse_unknown_ = false;
  bool byte_level_ = false;
  bool seams_are_known_ = false;
};

}  // namespace kascade::bpe

#endif  // KASCADE_ENGINE_TOKENIZER_BPE_MODEL_H_
