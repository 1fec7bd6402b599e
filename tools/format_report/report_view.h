// A report as tables for people and as JSON for programs.
#ifndef KASCADE_TOOLS_FORMAT_REPORT_REPORT_VIEW_H_
#define KASCADE_TOOLS_FORMAT_REPORT_REPORT_VIEW_H_

#include <string>

#include "nlohmann/json.hpp"
#include "tools/format_report/format_report.h"

namespace kascade::format_report {

// Three lines about what was measured, a table of the formats, and one of the mean KL by text.
std::string report_text(const FormatReport& report);

// One object; docs/cli.md lists its keys. NLL, KL and their standard errors are in nats per token.
nlohmann::ordered_json report_json(const FormatReport& report);

}  // namespace kascade::format_report

#endif  // KASCADE_TOOLS_FORMAT_REPORT_REPORT_VIEW_H_
