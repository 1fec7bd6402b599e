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

}  // namespace kascade::client

#endif  // KASCADE_CLIENT_EVAL_QUALITY_REPORT_H_
