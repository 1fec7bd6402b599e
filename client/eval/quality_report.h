// Writes the results of the quality suite as files: tables, figures, and a page that explains them.
#ifndef KASCADE_CLIENT_EVAL_QUALITY_REPORT_H_
#define KASCADE_CLIENT_EVAL_QUALITY_REPORT_H_

#include <string>
#include <vector>

#include "client/eval/data_table.h"
#include "client/eval/quality_suite.h"
#include "client/eval/report_files.h"

namespace kascade::client {

// Returns README.md, quality.csv, recall.csv, similarity.csv and the figures as SVG. `command` is
// the command line that produced them, which README.md states.
std::vector<ReportFile> quality_report(const QualityInputs& inputs, const QualityResults& results,
                                       const std::string& command);

DataTable quality_table(const QualityResults& results);
DataTable recall_table(const QualityResults& results);

}  // namespace kascade::client

#endif  // KASCADE_CLIENT_EVAL_QUALITY_REPORT_H_
