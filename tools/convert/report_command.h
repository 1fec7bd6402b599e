// kascade-convert --report: measures what each weight format costs a converted model.
#ifndef KASCADE_TOOLS_CONVERT_REPORT_COMMAND_H_
#define KASCADE_TOOLS_CONVERT_REPORT_COMMAND_H_

#include <CLI/CLI.hpp>
#include <atomic>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"

namespace kascade::convert {

struct ReportArguments {
  std::string model{};  // empty: no report is wanted
  std::vector<std::string> texts{};
  std::string formats{};
  int32_t tokens = 0;
  int32_t windows = 0;
  bool json = false;
};

// Adds --report and the options that belong to it.
void add_report_options(CLI::App& app, ReportArguments& arguments);

// Measures and prints the report. Returns the errors of measure_formats(), and those of reading the
// texts.
absl::Status run_report(const ReportArguments& arguments, const std::atomic<bool>& interrupted);

}  // namespace kascade::convert

#endif  // KASCADE_TOOLS_CONVERT_REPORT_COMMAND_H_
