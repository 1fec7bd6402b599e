// How many pass keys the served model finds, dense and sparse, by length and depth.
#ifndef KASCADE_CLIENT_EVAL_RECALL_H_
#define KASCADE_CLIENT_EVAL_RECALL_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "client/eval/pass_key.h"
#include "client/eval/session.h"
#include "kascade/v1/attention.pb.h"

namespace kascade::client {

// Pass keys of prompts of one length whose key stands at one depth.
struct RecallCell {
  int32_t tokens = 0;
  double depth = 0;
  int32_t cases = 0;
  int32_t dense_found = 0;
  int32_t sparse_found = 0;
};

// Tokens of the longest prompt that leaves the model room to answer, at most about 4,096.
int32_t longest_prompt(const Session& session);

// Of the plan's pass keys, those that the model answers greedily. `filler`: tokens of running text.
absl::StatusOr<int32_t> find_pass_keys(Session& session, const PassKeyPlan& plan,
                                       const std::vector<int32_t>& filler,
                                       const v1::AttentionOptions& attention);

// Dense, and sparse by the active schedule: prompts of 1,024, 2,048 and longest_prompt() tokens as
// far as the context allows, the key at five depths; `cases` (≥ 5) per length, shared out evenly.
absl::StatusOr<std::vector<RecallCell>> measure_recall(Session& session,
                                                       const std::vector<int32_t>& filler,
                                                       int32_t cases);

// A sentence per length.
std::vector<std::string> recall_findings(const std::vector<RecallCell>& cells);

}  // namespace kascade::client

#endif  // KASCADE_CLIENT_EVAL_RECALL_H_
