// Finds the added tokens of a tokenizer in a text. At each position the longest added token wins;
// the search goes from left to right.
#ifndef KASCADE_ENGINE_TOKENIZER_ADDED_TOKENS_H_
#define KASCADE_ENGINE_TOKENIZER_ADDED_TOKENS_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "engine/tokenizer/encoding_run.h"
#include "engine/tokenizer/vocabulary.h"

namespace kascade::bpe {

class AddedTokenFinder {
 public:
  // A part of a text: an added token if `id` ≥ 0, otherwise the text between two added tokens.
  // `text` is never empty.
  struct Segment {
    std::string_view text;
    int32_t id;
  };

  // Adds the string `content` to the search; a match yields `token`.
  void add(std::string_view content, const AddedToken& token);

  // Calls `sink` in order for the segments of `text`, which concatenated give `text` again. Not OK:
  // what `sink` or `run` answered.
  absl::Status split(std::string_view text, EncodingRun& run,
                     const std::function<absl::Status(const Segment&)>& sink) const;

  // Most bytes of text that one of the tokens stands for; unset if one consumes white space beside
  // it.
  std::optional<size_t> longest_token() const { return longest_token_; }

 private:
  struct Match {
    size_t length = 0;  // 0 means that no token matches
    int32_t leaf = -1;
  };
  struct Leaf {
    int32_t id;
    bool lstrip;
    bool rstrip;
  };

  Match longest_at(std::string_view text) const;

  // A trie: edge (node, byte) → node; node 0 is the root.
  absl::flat_hash_map<uint64_t, int32_t> edges_;
  std::vector<int32_t> leaf_of_node_{-1};
  std::vector<Leaf> leaves_;
  std::array<bool, 256> starts_{};
  std::optional<size_t> longest_token_ = 0;
};

}  // namespace kascade::bpe

#endif  // KASCADE_ENGINE_TOKENIZER_ADDED_TOKENS_H_
