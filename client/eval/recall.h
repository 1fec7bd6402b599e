// Measures how many pass keys the served model finds with dense and with sparse attention, by
// length of the prompt.
#ifndef KASCADE_CLIENT_EVAL_RECALL_H_
#define KASCADE_CLIENT_EVAL_RECALL_H_

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "client/eval/pass_key.h"
#include "client/eval/prompt_style.h"
#include "client/rpc/session.h"
#include "kascade/v1/attention.pb.h"

namespace kascade::client {

// Results for prompts of one length whose key is at one depth. Both kinds of attention were asked
// the same questions.
struct RecallCell {
  int32_t tokens = 0;
  int32_t keys = 1;   // in each prompt, of which one is asked for
  double depth = -1;  // as a fraction of the prompt; negative: anywhere
  int32_t cases = 0;
  int32_t dense_found = 0;
  int32_t sparse_found = 0;
  int32_t dense_only = 0;   // found with dense attention and not with sparse
  int32_t sparse_only = 0;  // found with sparse attention and not with dense
};

// The prompts to measure.
struct RecallOptions {
  std::vector<int32_t> lengths{};  // in tokens
  int32_t keys = 1;                // in each prompt, [1, kMaxKeys]
  int32_t cases = 20;              // of each length, ≥ 5
};

// Length in tokens of the longest prompt that leaves room for the answer within the model's
// context, its sliding window and the server's cache.
int32_t longest_prompt(const v1::GetModelInfoResponse& info, const PromptStyle& style);

// The lengths to measure: `asked`, ascending, or if it is empty 1,024, 2,048, 4,096 and so on as
// far as `longest` and the `text_tokens` of running text reach, and `longest` itself.
// INVALID_ARGUMENT names a length beyond either limit, and a text below 1,024 tokens that has to be
// longer.
absl::StatusOr<std::vector<int32_t>> recall_lengths(std::vector<int32_t> asked, int32_t longest,
                                                    int64_t text_tokens);

// Returns of each prompt whether the model answers with its pass key, by greedy decoding. `filler`
// is the tokens of running text.
absl::StatusOr<std::vector<bool>> find_pass_keys(Session& session, const PromptStyle& style,
                                                 const PassKeyOptions& options,
                                                 const std::vector<int32_t>& filler,
                                                 const v1::AttentionOptions& attention);

// Measures dense attention, and sparse attention with the active schedule. The key that is asked
// for is at one of five depths, among which the cases of a length are divided equally; a remainder
// is dropped.
absl::StatusOr<std::vector<RecallCell>> measure_recall(Session& session, const PromptStyle& style,
                                                       const std::vector<int32_t>& filler,
                                                       const RecallOptions& options);

// The same with all keys at random depths: one cell for each length.
absl::StatusOr<std::vector<RecallCell>> measure_recall_anywhere(Session& session,
                                                                const PromptStyle& style,
                                                                const std::vector<int32_t>& filler,
                                                                const RecallOptions& options);

}  // namespace kascade::client

#endif  // KASCADE_CLIENT_EVAL_RECALL_H_
