// Byte-pair merging, the same loop for every kind of vocabulary. It runs once for each piece that
// the pre-tokenizer yields; a piece may be the whole text.
#ifndef KASCADE_ENGINE_TOKENIZER_MERGES_H_
#define KASCADE_ENGINE_TOKENIZER_MERGES_H_

#include <cstdint>
#include <span>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "engine/tokenizer/encoding_run.h"

namespace kascade::bpe {

// The merges of a vocabulary: which pairs of neighbouring symbols become which token, and with
// which rank.
class MergeTable {
 public:
  struct Merge {
    int32_t rank;  // merges of lower rank are applied first
    int32_t id;    // id of the resulting token
  };

  void reserve(size_t count) { merges_.reserve(count); }
  // Adds a merge. If the pair has a merge already, the new one replaces it, as in the reference
  // implementation.
  void add(int32_t left, int32_t right, Merge merge);
  const Merge* find(int32_t left, int32_t right) const;

  // Records that some merge joins a part that ends with symbol `left` to a part that starts with
  // symbol `right`. Between two symbols without such a seam a text can be cut, and its parts merged
  // one by one with the same result.
  void add_seam(int32_t left, int32_t right) { seams_.insert(key(left, right)); }
  bool has_seam(int32_t left, int32_t right) const { return seams_.contains(key(left, right)); }

 private:
  static uint64_t key(int32_t left, int32_t right) {
    return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
  }

  absl::flat_hash_map<uint64_t, Merge> merges_;
  absl::flat_hash_set<uint64_t> seams_;
};

// The merge loop and its buffers. A caller that merges many pieces keeps one, to save allocations.
class MergeScratch {
 public:
  // Merges `symbols` until no neighbouring pair is in `table`; the pair with the lowest rank goes
  // first, and among equals the leftmost. Appends the result to the tokens of `run`. Takes
  // O(n log n) steps for n symbols. Not OK: what `run` answered.
  absl::Status merge(const MergeTable& table, std::span<const int32_t> symbols, EncodingRun& run);

 private:
  struct Node {
    int32_t id;  // kMergedAway if this symbol was merged into its left neighbour
    int32_t previous;
    int32_t next;
  };
  struct Candidate {
    int32_t rank;
    int32_t position;  // of the left symbol
    // ids of both symbols when the candidate was queued; if they differ now, it is out of date
    int32_t left;
    int32_t right;
    int32_t merged;

    // std::push_heap puts the largest element on top, so a better candidate compares as larger.
    bool operator<(const Candidate& other) const {
      return rank != other.rank ? rank > other.rank : position > other.position;
    }
  };

  absl::Status start(const MergeTable& table, std::span<const int32_t> symbols, EncodingRun& run);
  void push(const MergeTable& table, int32_t position);
  bool is_current(const Candidate& candidate) const;

  std::vector<Node> nodes_;
  std::vector<Candidate> queue_;
};

}  // namespace kascade::bpe

#endif  // KASCADE_ENGINE_TOKENIZER_MERGES_H_
