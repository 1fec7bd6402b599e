#include "tools/convert/report_command.h"

#include <fmt/format.h>

#include <filesystem>
#include <utility>

#include "engine/model/file.h"
#include "tools/bundled_texts/bundled_text.h"
#include "tools/format_report/format_names.h"
#include "tools/format_report/format_report.h"
#include "tools/format_report/report_view.h"
#include "tools/options/number_option.h"
#include "tools/terminal/progress.h"
#include "tools/version/version.h"

namespace kascade::convert {
namespace {

using format_report::FormatReport;
using format_report::ReportOptions;
using format_report::ReportProgress;

constexpr int64_t kMostTextBytes = 64 << 20;
constexpr int32_t kMostTokens = 1 << 24;
constexpr int32_t kMostWindows = 10'000;

absl::StatusOr<std::vector<std::string>> files_or_bundled(const std::vector<std::string>& files) {
  if (!files.empty()) return files;
  std::vector<std::string> bundled;
  for (const char* name : {"evaluation.txt", "calibration.txt"}) {
    auto path = bundled_text(name, "--text");
    if (!path.ok()) return path.status();
    bundled.push_back(*std::move(path));
  }
  return bundled;
}

absl::StatusOr<ReportOptions> report_options(const ReportArguments& arguments) {
  ReportOptions options{.model = arguments.model,
                        .window_tokens = arguments.tokens,
                        .windows_per_text = arguments.windows};
  if (!arguments.formats.empty()) {
    auto formats = format_report::formats_named(arguments.formats);
    if (!formats.ok()) return formats.status();
    options.formats = *std::move(formats);
  }
  const auto files = files_or_bundled(arguments.texts);
  if (!files.ok()) return files.status();
  for (const std::string& file : *files) {
    auto content = read_file(file, kMostTextBytes);
    if (!content.ok()) return content.status();
    options.texts.push_back(
        {.name = std::filesystem::path(file).filename().string(), .content = *std::move(content)});
  }
  return options;
}

}  // namespace

void add_report_options(CLI::App& app, ReportArguments& arguments) {
  CLI::Option* report = app.add_option(
      "--report", arguments.model,
      "measure what each weight format costs the model of this folder instead: KL, NLL, bytes");
  app.add_option("--text", arguments.texts, "texts to measure on [the bundled ones]")
      ->needs(report);
  app.add_option("--formats", arguments.formats,
                 "list of bf16, int8, int4, native [all; native only if weights have blocks]")
      ->needs(report);
  options::add_whole(app, "--tokens", arguments.tokens, 2, kMostTokens,
                     "of a window [2048, or the model's context if smaller]")
      ->needs(report);
  options::add_whole(app, "--windows", arguments.windows, 1, kMostWindows,
                     "of each text [4 divided by the number of texts, at least 1]")
      ->needs(report);
  app.add_flag("--json", arguments.json, "print the report as one JSON object")->needs(report);
}

absl::Status run_report(const ReportArguments& arguments, const std::atomic<bool>& interrupted) {
  auto options = report_options(arguments);
  if (!options.ok()) return options.status();
  options->cancelled = &interrupted;
  client::ProgressDisplay display;
  const auto report = format_report::measure_formats(*options, [&](const ReportProgress& progress) {
    display.show({.stage = fmt::format("comparing {}", std::string(name_of(progress.format))),
                  .done = progress.tokens_done,
                  .total = progress.tokens_total});
  });
  display.finish();
  if (!report.ok()) return report.status();
  if (arguments.json) {
    nlohmann::ordered_json json = {{"program", version_line()}};
    json.update(format_report::report_json(*report));
    fmt::print("{}\n", json.dump(2));
  } else {
    fmt::print("{}", format_report::report_text(*report));
  }
  return absl::OkStatus();
}

}  // namespace kascade::convert
