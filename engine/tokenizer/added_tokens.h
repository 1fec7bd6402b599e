// Finds the added tokens of a tokenizer in a text. At each position the longest added token wins;
// the search goes from left to right.
#ifndef KASCADE_ENGINE_TOKENIZER_ADDED_TOKENS_H_
#define KASCADE_ENGINE_TOKENIZER_ADDED_TOKENS_H_

#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
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

  // Splits `text` into segments, which concatenated give `text` again.
  std::vector<Segment> split(std::string_view text) const;

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
};

}  // namespace kascade::bpe

#endif  // KASCADE_ENGINE_TOKENIZER_ADDED_TOKENS_H_
