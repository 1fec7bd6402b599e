// Derives findings from the rows of a quality report, as sentences that compare one row with
// another.
#ifndef KASCADE_CLIENT_EVAL_FINDINGS_H_
#define KASCADE_CLIENT_EVAL_FINDINGS_H_

#include <string>
#include <vector>

#include "client/eval/quality_suite.h"

namespace kascade::client {

// Returns the comparison row that `row` names, or null if it names none.
const QualityRow* comparison_row_of(const QualityResults& results, const QualityRow& row);

// The paired difference of two runs on the same tokens: the mean over tokens of KL(first) −
// KL(second), and its standard error. Because the difference is taken per token, the variation
// between easy and hard tokens cancels.
struct PairedDifference {
  double mean = 0;
  double error = 0;

  bool is_significant() const;  // whether |mean| is above two standard errors
  // "by 0.0100 ± 0.0014", or the signed values in brackets if the difference is not significant
  std::string text() const;
};
PairedDifference paired_difference(const WindowFigures& first, const WindowFigures& second);

// Returns the findings in this order: the loss of the automatic schedule, also on other texts; the
// row that reads least without more loss; schedules of the two planners compared; baselines and
// Kascade compared at equal bytes, by KL and by pass keys. A finding says so if a baseline is
// better, and if a difference is within two standard errors.
std::vector<std::string> quality_findings(const QualityResults& results);

}  // namespace kascade::client

#endif  // KASCADE_CLIENT_EVAL_FINDINGS_H_
