#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "client/benchmark/benchmark.h"
#include "client/benchmark/benchmark_report.h"
#include "client/commands/commands.h"
#include "client/commands/files.h"
#include "client/commands/server_flags.h"
#include "client/commands/texts.h"
#include "client/commands/threshold.h"
#include "client/eval/report_files.h"
#include "client/rpc/failure.h"
#include "client/views/benchmark_view.h"
#include "client/views/calibration_view.h"
#include "client/views/score_view.h"
#include "tools/bundled_texts/bundled_text.h"
#include "tools/terminal/progress.h"

namespace kascade::client {
namespace {

struct BenchmarkOptions {
  std::vector<std::string> texts{}, calibration{}, held_out{};
  ServerFlags server{};
  TextFlags text_flags{};
  std::string preset{};
  std::string threshold{};
  std::optional<double> ratio{};
  std::optional<int32_t> top_k{}, tile_size{}, max_reuse_dist{}, window_tokens{};
  std::vector<int32_t> lengths{};
  int32_t runs = 5;
  int32_t new_tokens = 32;
  bool only_speed = false;
  std::string out{};
};

void fill_calibration(const BenchmarkOptions& options, v1::CalibrateRequest& request) {
  if (!options.preset.empty()) {
    request.set_preset(value_of<v1::CalibrationPreset>(options.preset));
  }
  if (options.ratio) request.set_ratio(*options.ratio);
  set_threshold(options.threshold, request);
  if (options.top_k) request.set_top_k(*options.top_k);
  if (options.tile_size) request.set_tile_size(*options.tile_size);
  if (options.max_reuse_dist) request.set_max_reuse_dist(*options.max_reuse_dist);
  if (options.window_tokens) request.set_window_tokens(*options.window_tokens);
}

// The first half of each text is for calibration, the second for the test.
absl::Status split_texts(const BenchmarkOptions& options, BenchmarkInputs& inputs,
                         BenchmarkSettings& settings) {
  auto texts = read_texts(options.texts);
  if (!texts.ok()) return texts.status();
  for (size_t i = 0; i < texts->size(); ++i) {
    const std::string &text = (*texts)[i], &file = options.texts[i];
    const size_t middle = place_to_cut(text, text.size() / 2);
    if (middle == 0 || middle == text.size()) {
      return absl::InvalidArgumentError(file + " is too short to be cut in halves");
    }
    inputs.calibration.add_texts(text.substr(0, middle));
    inputs.held_out.push_back({.text = text.substr(middle), .file = file});
    settings.calibration_files.push_back(file + ", first half");
    settings.held_out_files.push_back(file + ", second half");
  }
  return absl::OkStatus();
}

// `files`, or the bundled text of this name.
absl::StatusOr<std::vector<std::string>> files_or_bundled(const std::vector<std::string>& files,
                                                          const std::string& name) {
  if (!files.empty()) return files;
  auto bundled = kascade::bundled_text(name, "--calibration and --held-out");
  if (!bundled.ok()) return bundled.status();
  return std::vector<std::string>{*std::move(bundled)};
}

absl::Status read_all_texts(const BenchmarkOptions& options, BenchmarkInputs& inputs,
                            BenchmarkSettings& settings) {
  if (!options.texts.empty()) return split_texts(options, inputs, settings);
  auto calibration = files_or_bundled(options.calibration, "calibration.txt");
  if (!calibration.ok()) return calibration.status();
  auto held_out = files_or_bundled(options.held_out, "evaluation.txt");
  if (!held_out.ok()) return held_out.status();
  settings.calibration_files = *std::move(calibration);
  settings.held_out_files = *std::move(held_out);
  const auto texts = read_named_texts(settings.calibration_files, options.text_flags);
  if (!texts.ok()) return texts.status();
  for (const NamedText& text : *texts) inputs.calibration.add_texts(text.text);
  if (options.text_flags.lines) inputs.calibration.set_join_texts(true);
  if (const auto& most = options.text_flags.max_tokens_per_text) {
    inputs.calibration.set_max_tokens_per_text(*most);
    inputs.max_tokens_per_text = *most;
  }
  auto tests = read_named_texts(settings.held_out_files, options.text_flags);
  if (!tests.ok()) return tests.status();
  inputs.held_out = *std::move(tests);
  return absl::OkStatus();
}

// Runs the steps one after the other and shows each result as it comes.
class Presentation {
 public:
  Presentation(const Globals& globals, Session& session, const BenchmarkInputs& inputs,
               const BenchmarkSettings& settings)
      : shows_(!globals.json),
        info_(session.info()),
        inputs_(inputs),
        settings_(settings),
        benchmark_(session, inputs, [this](const Progress& progress) { display_.show(progress); }) {
  }

  absl::Status run_speed_alone() {
    show(device_line(info_.runtime()));
    if (auto status = benchmark_.count_tokens(); !status.ok()) return status;
    if (auto status = benchmark_.time_active_schedule(); !status.ok()) return status;
    show(speed_text(results().speed));
    return absl::OkStatus();
  }

  absl::Status run() {
    show(device_line(info_.runtime()));
    show(banner(info_));
    if (auto status = benchmark_.count_tokens(); !status.ok()) return status;
    const BenchmarkResults& results = benchmark_.results();
    show(configuration_text(info_, inputs_, settings_, results.lengths));
    show(weights_line(info_));
    show(texts_text(results, settings_));
    if (auto status = benchmark_.calibrate(); !status.ok()) return status;
    show(calibration_text(results.calibration));
    if (auto status = benchmark_.score(); !status.ok()) return status;
    display_.finish();
    if (const std::string warning = suspicion(results.score); !warning.empty()) {
      fmt::print(stderr, "kascade: warning: {}\n", warning);
    }
    show(dense_run_text(results.score));
    show(sparse_run_text(results.score));
    show(results_text(results));
    if (auto status = benchmark_.time_runs(); !status.ok()) return status;
    show(speed_text(results.speed));
    return absl::OkStatus();
  }

  const BenchmarkResults& results() const { return benchmark_.results(); }

 private:
  void show(const std::string& block) {
    display_.finish();
    if (shows_) fmt::print("{}\n", block);
    std::fflush(stdout);
  }

  bool shows_;
  const v1::GetModelInfoResponse& info_;
  const BenchmarkInputs& inputs_;
  const BenchmarkSettings& settings_;
  ProgressDisplay display_{};
  Benchmark benchmark_;
};

int run_benchmark(const Globals& globals, const BenchmarkOptions& options) {
  BenchmarkInputs inputs{
      .lengths = options.lengths, .runs = options.runs, .new_tokens = options.new_tokens};
  BenchmarkSettings settings;
  fill_calibration(options, inputs.calibration);
  if (auto status = read_all_texts(options, inputs, settings); !status.ok()) return fail(status);
  if (!options.out.empty()) {
    if (auto status = make_report_folder(options.out); !status.ok()) return fail(status);
  }
  const auto server = connect_or_start(globals, options.server);
  if (!server.ok()) return fail(server.status());
  const v1::GetModelInfoResponse& info = (*server)->session->info();
  settings.model = options.server.model.empty() ? info.model().name() : options.server.model;
  Presentation presentation(globals, *(*server)->session, inputs, settings);
  if (options.only_speed) {
    if (auto status = presentation.run_speed_alone(); !status.ok()) return fail(status);
    if (globals.json) print_json({{"speed", speed_json(presentation.results().speed)}});
    return kSuccess;
  }
  if (auto status = presentation.run(); !status.ok()) return fail(status);
  const BenchmarkResults& results = presentation.results();
  if (globals.json) print_json(benchmark_json(info, inputs, settings, results));
  if (options.out.empty()) return kSuccess;
  const absl::Status written =
      write_report(options.out, benchmark_report(info, inputs, settings, results));
  if (!written.ok()) return fail(written);
  if (!globals.json) {
    fmt::print("Report: {}\n", (std::filesystem::path(options.out) / "report.md").string());
  }
  return kSuccess;
}

void add_texts(CLI::App& command, BenchmarkOptions& options) {
  add_text_flags(command, options.text_flags);
  CLI::Option* texts =
      command.add_option("TEXT", options.texts,
                         "UTF-8 texts: the first half of each makes the schedule, the second is "
                         "scored [the bundled texts]");
  command
      .add_option("--calibration", options.calibration,
                  "Texts that the schedule is made from [the bundled one]")
      ->type_name("FILE")
      ->excludes(texts);
  command
      .add_option("--held-out", options.held_out,
                  "Texts that dense and sparse are compared on [the bundled one]")
      ->type_name("FILE")
      ->excludes(texts);
}

void add_schedule_options(CLI::App& command, BenchmarkOptions& options) {
  command
      .add_option("--preset", options.preset,
                  "Named settings of tile and greedy, see kascade calibrate --help")
      ->check(CLI::IsMember(
          {"balanced", "conservative", "aggressive", "large-model", "cpu-8b", "long"}));
  command.add_option("--ratio", options.ratio, "kascade: share of the keys to choose [0.1]");
  command
      .add_option("--threshold", options.threshold,
                  "tile, greedy: least similarity of a reuse layer, 0 to 1, or auto [0.65]")
      ->type_name("auto|N")
      ->check(check_threshold);
  command.add_option("--top-k", options.top_k, "tile: key tiles to choose [12]");
  command.add_option("--tile-size", options.tile_size,
                     "Tokens of a tile: 16, 32, 64, 128 [kascade: 32, tile: 16]");
  command.add_option("--max-reuse-dist", options.max_reuse_dist,
                     "tile, greedy: reuse at most this - 1 layers after the anchor [4]");
  command.add_option("--window-tokens", options.window_tokens,
                     "Tokens of a window when calibrating [2048; presets: theirs]");
}

}  // namespace

void add_benchmark(CLI::App& app, const Globals& globals, Action& chosen) {
  CLI::App* command = app.add_subcommand(
      "benchmark", "The whole job: make a schedule, compare dense with sparse, time both");
  const auto options = std::make_shared<BenchmarkOptions>();
  add_texts(*command, *options);
  add_server_flags(*command, options->server);
  add_schedule_options(*command, *options);
  command
      ->add_option("--length", options->lengths,
                   "Tokens of the timed prompts; may be given several times [512 and the longest "
                   "that fits, at most 16384]")
      ->allow_extra_args(false)
      ->check(CLI::PositiveNumber);
  command->add_option("--runs", options->runs, "Timed runs of each kind, after one warm-up")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  command->add_option("--new-tokens", options->new_tokens, "Tokens decoded after each timed prompt")
      ->check(CLI::Range(2, 100000))
      ->capture_default_str();
  CLI::Option* only = command->add_flag("--only-speed", options->only_speed,
                                        "Only time dense against the active schedule");
  command->add_option("--out", options->out, "Also write a report with figures to this folder")
      ->type_name("DIR")
      ->excludes(only);
  command->callback(
      [&, options] { chosen = [&globals, options] { return run_benchmark(globals, *options); }; });
}

}  // namespace kascade::client
