// What the rows of a quality report say beside each other, in sentences.
#ifndef KASCADE_CLIENT_EVAL_FINDINGS_H_
#define KASCADE_CLIENT_EVAL_FINDINGS_H_

#include <string>
#include <vector>

#include "client/eval/quality_suite.h"

namespace kascade::client {

// The row that `row` is compared with; null: none.
const QualityRow* rival_of(const QualityResults& results, const QualityRow& row);

// KL of `first` above that of `second`, both measured on the same tokens: mean difference and its
// standard error, in which what is hard for both cancels.
struct Lead {
  double mean = 0;
  double error = 0;

  bool any() const;          // beyond two standard errors
  std::string text() const;  // "by 0.0100 ± 0.0014", or the signed figures in brackets
};
Lead lead(const WindowFigures& first, const WindowFigures& second);

// The automatic schedule's loss first, on other texts too; what reads less without more loss; plans
// against plans; baselines against Kascade where both read the same bytes, by KL and by pass keys.
// Says so where a baseline wins, and where two are within two standard errors of each other.
std::vector<std::string> quality_findings(const QualityResults& results);

}  // namespace kascade::client

#endif  // KASCADE_CLIENT_EVAL_FINDINGS_H_
