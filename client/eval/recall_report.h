// Formats the results of the recall suite as sentences and as JSON.
#ifndef KASCADE_CLIENT_EVAL_RECALL_REPORT_H_
#define KASCADE_CLIENT_EVAL_RECALL_REPORT_H_

#include <string>
#include <vector>

#include "client/eval/recall.h"
#include "client/views/reports.h"

namespace kascade::client {

// The sum over all depths of prompts of one length, whose `depth` is negative.
std::vector<RecallCell> recall_by_length(const std::vector<RecallCell>& cells);

// Share of the cases found dense less the share found sparse, in percentage points: positive if
// sparse attention finds fewer.
double difference_points(const RecallCell& cell);

// Returns one sentence per length: what dense and sparse attention find, their difference in
// percentage points, and the p-value of the sign test.
std::vector<std::string> recall_findings(const std::vector<RecallCell>& cells);

// Arrays "pass_keys" and "several_pass_keys" with one entry per cell, and "by_length" with the sums
// over depths, differences and p-values of both.
Json recall_json(const std::vector<RecallCell>& single, const std::vector<RecallCell>& several);

}  // namespace kascade::client

#endif  // KASCADE_CLIENT_EVAL_RECALL_REPORT_H_
