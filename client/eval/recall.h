// Measures how many pass keys the served model finds with dense and with sparse attention, by
// length of the prompt and depth of the key.
#ifndef KASCADE_CLIENT_EVAL_RECALL_H_
#define KASCADE_CLIENT_EVAL_RECALL_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "client/eval/pass_key.h"
#include "client/rpc/session.h"
#include "kascade/v1/attention.pb.h"

namespace kascade::client {

// Results for prompts of one length whose key is at one depth.
struct RecallCell {
  int32_t tokens = 0;
  double depth = 0;
  int32_t cases = 0;
  int32_t dense_found = 0;
  int32_t sparse_found = 0;
};

// Length in tokens of the longest prompt that leaves room for the answer within the context and
// within 4,096 tokens.
int32_t longest_prompt(const Session& session);

// Returns how many pass keys of such prompts the model answers with greedy decoding. `filler` is
// the tokens of running text.
absl::StatusOr<int32_t> find_pass_keys(Session& session, const PassKeyOptions& options,
                                       const std::vector<int32_t>& filler,
                                       const v1::AttentionOptions& attention);

// Measures dense attention, and sparse attention with the active schedule. Prompts have 1,024,
// 2,048 and longest_prompt() tokens as far as the context allows; the key is at one of five depths.
// Each length has `cases` (≥ 5) prompts, divided equally among the depths; a remainder is dropped.
absl::StatusOr<std::vector<RecallCell>> measure_recall(Session& session,
                                                       const std::vector<int32_t>& filler,
                                                       int32_t cases);

// Returns one sentence per length.
std::vector<std::string> recall_findings(const std::vector<RecallCell>& cells);

}  // namespace kascade::client

#endif  // KASCADE_CLIENT_EVAL_RECALL_H_
