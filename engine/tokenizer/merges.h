// Byte-pair merging, the same loop for every kind of vocabulary. Called for each piece of text that
// the pre-tokenizer leaves whole, which may be all of it.
#ifndef KASCADE_ENGINE_TOKENIZER_MERGES_H_
#define KASCADE_ENGINE_TOKENIZER_MERGES_H_

#include <cstdint>
#include <span>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"

namespace kascade::bpe {

// Which neighbours become which token, and how early.
class MergeTable {
 public:
  struct Merge {
    int32_t rank;  // lowest first
    int32_t id;    // of the result
  };

  void reserve(size_t count) { merges_.reserve(count); }
  // A pair that is there already takes the new rank, as in the reference implementation.
  void add(int32_t left, int32_t right, Merge merge);
  const Merge* find(int32_t left, int32_t right) const;

  // Some merge joins a part that ends with symbol `left` to one that starts with symbol `right`.
  // Where no merge does, a text can be cut and its parts merged one by one with the same result.
  void add_seam(int32_t left, int32_t right) { seams_.insert(key(left, right)); }
  bool has_seam(int32_t left, int32_t right) const { return seams_.contains(key(left, right)); }

 private:
  static uint64_t key(int32_t left, int32_t right) {
    return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
  }

  absl::flat_hash_map<uint64_t, Merge> merges_;
  absl::flat_hash_set<uint64_t> seams_;
};

// The merge loop with its buffers, kept by a caller that merges many pieces.
class MergeScratch {
 public:
  // Merges until no pair is in the table: lowest rank first, then leftmost. Appends the result to
  // `out`. O(n log n) in the number of symbols.
  void merge(const MergeTable& table, std::span<const int32_t> symbols, std::vector<int32_t>& out);

 private:
  struct Node {
    int32_t id;  // kMergedAway when the left neighbour has taken it in
    int32_t previous;
    int32_t next;
  };
  struct Candidate {
    int32_t rank;
    int32_t position;  // of the left symbol
    int32_t left;      // ids when it was queued: other ones there now mean it is out of date
    int32_t right;
    int32_t merged;

    // std::push_heap keeps the largest on top.
    bool operator<(const Candidate& other) const {
      return rank != other.rank ? rank > other.rank : position > other.position;
    }
  };

  void push(const MergeTable& table, int32_t position);
  bool is_current(const Candidate& candidate) const;

  std::vector<Node> nodes_;
  std::vector<Candidate> queue_;
};

}  // namespace kascade::bpe

#endif  // KASCADE_ENGINE_TOKENIZER_MERGES_H_
