// The `model` of a tokenizer.json: turns one piece of text into ids.
#ifndef KASCADE_ENGINE_TOKENIZER_BPE_MODEL_H_
#define KASCADE_ENGINE_TOKENIZER_BPE_MODEL_H_

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/tokenizer/json_fields.h"
#include "engine/tokenizer/merges.h"
#include "engine/tokenizer/vocabulary.h"

namespace kascade::bpe {

// Special tokens never come out of a piece: their merges, whole texts and characters are left out,
// so that text cannot forge them. The exception is the token for what is unknown.
class BpeModel {
 public:
  // Buffers kept from piece to piece.
  struct Scratch {
    std::vector<int32_t> symbols;
    MergeScratch merge;
  };

  // `vocabulary` holds model.vocab and the added tokens already.
  static absl::StatusOr<BpeModel> parse(const Json& json, const Vocabulary& vocabulary,
                                        bool byte_level);

  // Appends the ids of `piece` (valid UTF-8). What has no token and no fallback is dropped when the
  // file names no unk_token, as in the reference implementation.
  void encode(std::string_view piece, Scratch& scratch, std::vector<int32_t>& out) const;

 private:
  static constexpr int32_t kNone = -1;

  absl::Status read_unknown(ObjectReader& reader, const Vocabulary& vocabulary);
  // `ranks`: those of the merges where it is not the place in the list that says them, or nullptr.
  absl::Status read_merges(const Json& merges, const Json* ranks, const Vocabulary& vocabulary);
  void index_symbols(const Vocabulary& vocabulary, bool byte_fallback);
  void index_seam(std::string_view left, std::string_view right);
  int32_t find_character(std::string_view character) const;
  void append_symbols(std::string_view piece, std::vector<int32_t>& symbols) const;
  void append_bytes(std::string_view piece, std::vector<int32_t>& symbols) const;
  bool append_fallback(std::string_view character, std::vector<int32_t>& symbols) const;
  void merge_symbols(Scratch& scratch, std::vector<int32_t>& out) const;

  MergeTable merges_;
  StringMap<int32_t> whole_pieces_;                    // filled when merges may be skipped
  std::array<int32_t, 256> byte_ids_{};                // byte level: tokens of single bytes
  std::array<int32_t, 256> fallback_ids_{};            // <0x00> …
  absl::flat_hash_map<uint32_t, int32_t> characters_;  // otherwise: tokens of single characters
  int32_t unknown_id_ = kNone;
  bool fuse_unknown_ = false;
  bool byte_level_ = false;
  bool seams_are_known_ = false;
};

}  // namespace kascade::bpe

#endif  // KASCADE_ENGINE_TOKENIZER_BPE_MODEL_H_
