#include <fmt/format.h>
#include <fmt/ranges.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <filesystem>
#include <iterator>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "client/commands/commands.h"
#include "client/commands/files.h"
#include "client/commands/priority_flag.h"
#include "client/eval/findings.h"
#include "client/eval/quality_report.h"
#include "client/eval/quality_suite.h"
#include "client/eval/recall.h"
#include "client/eval/recall_report.h"
#include "client/eval/report_files.h"
#include "client/rpc/failure.h"
#include "client/views/reports.h"
#include "tools/version/version.h"

namespace kascade::client {
namespace {

struct EvalOptions {
  std::string suite = "quality";
  std::filesystem::path out{};
  std::string calibration{}, held_out{};
  std::vector<std::string> others{};
  std::vector<std::string> groups{};
  int32_t tokens = 4096;
  int32_t cases = 20;
  int32_t default_cases = 100;
  std::string chat = "auto";
  std::vector<int32_t> lengths{};
  int32_t needles = 4;
  std::string priority{};
  std::string command{};
};

absl::StatusOr<SuiteText> read_named(const std::string& file) {
  auto text = read_text(file);
  if (!text.ok()) return text.status();
  return SuiteText{std::filesystem::path(file).filename().string(), *std::move(text)};
}

// Shortens a large text to a length that suffices for calibration and scoring.
void keep_beginning(std::string& text) {
  constexpr size_t kMostBytes = 200000;
  text.resize(place_to_cut(text, kMostBytes));
}

// Refuses to score a text that is also calibrated on, because it cannot show what the schedule
// costs on other texts.
absl::Status check_different(const QualityInputs& inputs) {
  std::vector<const SuiteText*> texts = {&inputs.calibration, &inputs.held_out};
  for (const SuiteText& other : inputs.others) texts.push_back(&other);
  for (size_t i = 0; i < texts.size(); ++i) {
    for (size_t j = i + 1; j < texts.size(); ++j) {
      const auto& [shorter, longer] =
          std::minmax(texts[i]->text, texts[j]->text,
                      [](const auto& a, const auto& b) { return a.size() < b.size(); });
      if (longer.find(shorter) == std::string::npos) continue;
      return absl::InvalidArgumentError(fmt::format(
          "{} and {}: one of the two texts is part of the other; texts to calibrate on and to "
          "measure on must differ",
          texts[i]->name, texts[j]->name));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<QualityInputs> read_inputs(const EvalOptions& options) {
  QualityInputs inputs{.groups = options.groups,
                       .tokens = options.tokens,
                       .cases = options.cases,
                       .default_cases = options.default_cases,
                       .chat = options.chat};
  auto calibration = read_named(options.calibration);
  if (!calibration.ok()) return calibration.status();
  auto held_out = read_named(options.held_out);
  if (!held_out.ok()) return held_out.status();
  inputs.calibration = *std::move(calibration);
  inputs.held_out = *std::move(held_out);
  for (const std::string& file : options.others) {
    auto other = read_named(file);
    if (!other.ok()) return other.status();
    keep_beginning(other->text);
    inputs.others.push_back(*std::move(other));
  }
  if (auto status = check_different(inputs); !status.ok()) return status;
  return inputs;
}

// The results of the recall suite: single pass keys, and one of several.
struct RecallResults {
  std::string asked_in{};
  std::vector<RecallCell> single{};
  std::vector<RecallCell> several{};
};

absl::StatusOr<RecallResults> measure_both(Session& session, const EvalOptions& options,
                                           const std::string& text) {
  const auto encoded = session.encode({text});
  if (!encoded.ok()) return encoded.status();
  const std::vector<int32_t>& tokens = encoded->front();
  const v1::ModelInfo& model = session.info().model();
  const auto style = prompt_style(session, wants_chat(options.chat, model));
  if (!style.ok()) return style.status();
  auto lengths =
      recall_lengths(options.lengths, longest_prompt(session.info(), *style), std::ssize(tokens));
  if (!lengths.ok()) return lengths.status();
  RecallOptions recall{.lengths = *std::move(lengths), .keys = 1, .cases = options.cases};
  auto single = measure_recall(session, *style, tokens, recall);
  if (!single.ok()) return single.status();
  recall.keys = options.needles;
  auto several = measure_recall_anywhere(session, *style, tokens, recall);
  if (!several.ok()) return several.status();
  return RecallResults{describe(*style, model), *std::move(single), *std::move(several)};
}

// Measures how many pass keys in the held-out text are found with the active schedule.
int run_recall(const Globals& globals, const EvalOptions& options) {
  const auto text = read_named(options.held_out);
  if (!text.ok()) return fail(text.status());
  const auto session = Session::open(globals);
  if (!session.ok()) return fail(session.status());
  (*session)->set_priority(priority_of(options.priority));
  const auto results = measure_both(**session, options, text->text);
  if (!results.ok()) return fail(results.status());
  if (globals.json) {
    Json out = {{"asked_in", results->asked_in}};
    out.update(recall_json(results->single, results->several));
    print_json(out);
    return kSuccess;
  }
  fmt::print("Asked in {}.\n", results->asked_in);
  for (const auto* cells : {&results->single, &results->several}) {
    for (const std::string& finding : recall_findings(*cells)) fmt::print("{}\n", finding);
  }
  return kSuccess;
}

int run_quality(const Globals& globals, const EvalOptions& options) {
  const auto inputs = read_inputs(options);
  if (!inputs.ok()) return fail(inputs.status());
  if (auto status = make_report_folder(options.out); !status.ok()) return fail(status);
  const auto session = Session::open(globals);
  if (!session.ok()) return fail(session.status());
  (*session)->set_priority(priority_of(options.priority));
  QualityResults results;
  results.program = version_line();
  absl::Status status = run_quality_suite(**session, *inputs, results);
  if (results.rows.empty()) return fail(status);
  status.Update(write_report(options.out, quality_report(*inputs, results, options.command)));
  for (const std::string& finding : quality_findings(results)) fmt::print("{}\n", finding);
  return status.ok() ? kSuccess : fail(status);
}

// What is read, and where the report goes.
void add_texts(CLI::App& command, EvalOptions& options) {
  command
      .add_option("--suite", options.suite,
                  "quality: the report; the server's active schedule changes from row to row, so "
                  "nobody else should use it meanwhile. recall: pass keys found under the active "
                  "schedule, dense and sparse, by length")
      ->check(CLI::IsMember({"quality", "recall"}))
      ->capture_default_str();
  command.add_option("--out", options.out, "quality: folder for the report")->type_name("DIR");
  command
      .add_option("--calibration", options.calibration,
                  "quality: text that schedules are made from")
      ->type_name("FILE");
  command.add_option("--held-out", options.held_out, "Text to try them on")
      ->required()
      ->type_name("FILE");
  command
      .add_option("--other", options.others,
                  "Texts of other kinds (their first 200 kB): the second half of each is tried "
                  "on, the first calibrated on for some rows")
      ->type_name("FILE");
}

// How much is measured.
void add_sizes(CLI::App& command, EvalOptions& options) {
  command
      .add_option("--groups", options.groups, "Rows to measure beside the default schedule [all]")
      ->delimiter(',')
      ->check(CLI::IsMember({"kascade", "tile", "greedy", "baseline", "experiment", "domain"}));
  command
      .add_option("--tokens", options.tokens,
                  "Tokens of each text to score; in the rows of domains up to three times as many")
      ->check(CLI::Range(512, 1 << 24))
      ->capture_default_str();
  command
      .add_option("--cases", options.cases,
                  "Pass keys to look for in each row; recall: at each length")
      ->check(CLI::Range(5, 10000))
      ->capture_default_str();
  command
      .add_option("--default-cases", options.default_cases,
                  "The same for the default schedule, at each length")
      ->check(CLI::Range(5, 10000))
      ->capture_default_str();
}

// How pass keys are hidden and asked for.
void add_recall_options(CLI::App& command, EvalOptions& options) {
  command
      .add_option(
          "--chat", options.chat,
          "Ask for pass keys in the model's own chat template; auto: if the server knows it")
      ->check(CLI::IsMember({"auto", "on", "off"}))
      ->capture_default_str();
  command
      .add_option("--lengths", options.lengths,
                  "recall: tokens of the prompts [1024,2048,4096 ... and the longest, as far as "
                  "model and --held-out reach]")
      ->delimiter(',')
      ->type_name("LIST")
      ->check(CLI::Range(128, 1 << 24));
  command
      .add_option("--needles", options.needles,
                  "recall: pass keys in each prompt of the second task, of which one is asked for")
      ->check(CLI::Range(2, kMaxKeys))
      ->capture_default_str();
}

// As one would type it again.
std::string command_of(const EvalOptions& options) {
  return fmt::format(
      "kascade eval --suite {} --calibration {} --held-out {}{}{}{}{} --tokens {} --cases {} "
      "--default-cases {} --chat {} --out {}",
      options.suite, options.calibration, options.held_out,
      options.others.empty() ? "" : " --other ", fmt::join(options.others, " "),
      options.groups.empty() ? "" : " --groups ", fmt::join(options.groups, ","), options.tokens,
      options.cases, options.default_cases, options.chat, options.out.string());
}

}  // namespace

void add_eval(CLI::App& app, const Globals& globals, Action& chosen) {
  CLI::App* command = app.add_subcommand(
      "eval", "Report what sparse attention costs: tables and figures, or pass keys alone");
  const auto options = std::make_shared<EvalOptions>();
  add_texts(*command, *options);
  add_sizes(*command, *options);
  add_recall_options(*command, *options);
  add_priority_flag(*command, "batch for scores, interactive for answers", options->priority);
  command->callback([&, options, command] {
    if (options->suite == "recall") {
      chosen = [&globals, options] { return run_recall(globals, *options); };
      return;
    }
    for (const char* needed : {"--out", "--calibration"}) {
      if (command->count(needed) == 0) throw CLI::RequiredError(needed);
    }
    for (const char* unused : {"--lengths", "--needles"}) {
      if (command->count(unused) > 0) throw CLI::ExcludesError(unused, "--suite quality");
    }
    options->command = command_of(*options);
    chosen = [&globals, options] { return run_quality(globals, *options); };
  });
}

}  // namespace kascade::client
