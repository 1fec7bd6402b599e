// Derives the merges of a vocabulary that has no list of merges but an order among its tokens
// (SentencePiece and tiktoken). Such a tokenizer merges two neighbours whenever they form a token
// together; the best such token goes first, and among equals the leftmost.
#ifndef KASCADE_ENGINE_TOKENIZER_MERGE_LIST_H_
#define KASCADE_ENGINE_TOKENIZER_MERGE_LIST_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "engine/tokenizer/json_fields.h"

namespace kascade::bpe {

// Limit for the length of a token in bytes of UTF-8. The longest token of Llama 3 has 256 bytes in
// the byte alphabet.
constexpr size_t kMaxTokenBytes = 1024;

struct MergeResult {
  std::string text{};  // valid UTF-8, at most kMaxTokenBytes
  int32_t rank = 0;    // several tokens may share one rank
};

// Sets model.merges to every split of one of `tokens` (lowest rank first, unique texts) into two
// other tokens, where splits fall between characters. Sets model.merge_ranks to the rank of each
// merge: all merges that make the same token have the rank of that token, which positions in a list
// cannot express. A reader that does not know merge_ranks still applies the merges in the right
// order, except where ranks are equal.
// INVALID_ARGUMENT when there are too many merges.
absl::Status list_merges(const std::vector<MergeResult>& tokens, Json& model);

}  // namespace kascade::bpe

#endif  // KASCADE_ENGINE_TOKENIZER_MERGE_LIST_H_
