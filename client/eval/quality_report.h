// The quality suite's results as files: tables, figures, and a page that says what they mean.
#ifndef KASCADE_CLIENT_EVAL_QUALITY_REPORT_H_
#define KASCADE_CLIENT_EVAL_QUALITY_REPORT_H_

#include <string>
#include <vector>

#include "client/eval/data_table.h"
#include "client/eval/quality_suite.h"

namespace kascade::client {

struct ReportFile {
  std::string name{};
  std::string content{};
};

// README.md, quality.csv, recall.csv, similarity.csv and the figures as SVG. `command` is what made
// them.
std::vector<ReportFile> quality_report(const QualityInputs& inputs, const QualityResults& results,
                                       const std::string& command);

DataTable quality_table(const QualityResults& results);
DataTable recall_table(const QualityResults& results);

// Sentences on what was to be shown: the automatic schedule's loss, plans against plans, baselines
// against Kascade where both read the same bytes. Says so where a baseline wins, and where two are
// within two standard errors of each other (as of independent samples; in truth they are paired).
std::vector<std::string> quality_findings(const QualityResults& results);

}  // namespace kascade::client

#endif  // KASCADE_CLIENT_EVAL_QUALITY_REPORT_H_
