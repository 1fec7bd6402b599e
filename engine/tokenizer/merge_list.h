// The merges of a vocabulary that has only tokens and an order among them, as SentencePiece and
// tiktoken do: two neighbours merge when together they are a token, the best such token first, then
// the leftmost.
#ifndef KASCADE_ENGINE_TOKENIZER_MERGE_LIST_H_
#define KASCADE_ENGINE_TOKENIZER_MERGE_LIST_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "engine/tokenizer/json_fields.h"

namespace kascade::bpe {

// Longest token, in bytes of UTF-8; the longest of Llama 3 has 256 in the byte alphabet.
constexpr size_t kMaxTokenBytes = 1024;

struct MergeResult {
  std::string text{};  // valid UTF-8, at most kMaxTokenBytes
  int32_t rank = 0;    // several tokens may share one
};

// Sets model.merges to every way of making one of `tokens` (lowest rank first, texts unique) of two
// others, cut between characters, and model.merge_ranks to the rank of each: a token that can be
// made in several ways has one rank for all of them, which the place in a list cannot say. Readers
// that do not know merge_ranks take the merges in the right order but for such ties.
// INVALID_ARGUMENT when there are too many.
absl::Status list_merges(const std::vector<MergeResult>& tokens, Json& model);

}  // namespace kascade::bpe

#endif  // KASCADE_ENGINE_TOKENIZER_MERGE_LIST_H_
