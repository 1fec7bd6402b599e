// Finds added tokens in a text, leftmost and then longest first.
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
  // `text` is a token when `id` ≥ 0, else what lies between tokens; never empty.
  struct Segment {
    std::string_view text;
    int32_t id;
  };

  // `content` is what to look for; `token` says what it is.
  void add(std::string_view content, const AddedToken& token);

  // The segments of `text`, in order; together they are `text`.
  std::vector<Segment> split(std::string_view text) const;

 private:
  struct Match {
    size_t length = 0;  // 0: none
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
