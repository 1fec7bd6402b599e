// kascade-bench: how fast steps of the engine are on this machine, where their time goes, and how
// far that is from what the machine can do. Needs no model files. Not a test.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "engine/backend/block_formats.h"
#include "tests/bench/report.h"
#include "tests/bench/runs.h"

namespace kascade::bench {
namespace {

std::string load_average() {
  double loads[1] = {};
  return getloadavg(loads, 1) == 1 ? absl::StrFormat("%.1f", loads[0]) : "unknown";
}

std::string processor_name() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with("model name")) return line.substr(line.find(':') + 2);
  }
  return "unknown processor";
}

struct Outputs {
  std::string json{};
  std::string markdown{};
};

bool write(const std::string& path, const std::string& text) {
  if (path.empty()) return true;
  std::ofstream file(path, std::ios::binary);
  file << text;
  file.close();
  if (!file) std::fprintf(stderr, "kascade-bench: cannot write %s\n", path.c_str());
  return static_cast<bool>(file);
}

int run(const Settings& settings, const std::vector<std::string>& commands,
        const Outputs& outputs) {
  Circumstances circumstances{
      .processor = processor_name(),
      .date = absl::FormatTime(absl::RFC3339_sec, absl::Now(), absl::UTCTimeZone()),
      .load_begin = load_average()};
  auto runs = Runs::make(settings);
  absl::Status status = runs.status();
  for (const std::string& command : commands) {
    if (!status.ok()) break;
    if (command == "prefill") status = (*runs)->prefill();
    if (command == "decode") status = (*runs)->decode();
    if (command == "attention") status = (*runs)->attention();
    if (command == "matmul") (*runs)->matmul();
    if (command == "end-to-end") status = (*runs)->end_to_end();
    if (command == "cost-model") status = (*runs)->cost_model();
  }
  if (!status.ok()) {
    std::fprintf(stderr, "kascade-bench: %s\n", std::string(status.message()).c_str());
    return 1;
  }
  circumstances.model = (*runs)->config().name;
  circumstances.layers = (*runs)->config().layers;
  circumstances.threads = (*runs)->backend().info().threads;
  circumstances.weights = block_dtype_named(settings.weights)
                              ? settings.weights
                              : std::string(name_of((*runs)->backend().precision().weights));
  circumstances.kv_cache = std::string(name_of((*runs)->backend().precision().cache));
  circumstances.ceilings = (*runs)->ceilings();
  circumstances.load_end = load_average();
  circumstances.schedule = describe((*runs)->schedule());
  circumstances.clock = settings.clock;
  const auto& measurements = (*runs)->measurements();
  const std::string text = to_markdown(circumstances, measurements, (*runs)->costs());
  std::printf("%s", text.c_str());
  const std::string json = to_json(circumstances, measurements, (*runs)->costs()).dump(1) + "\n";
  return write(outputs.markdown, text) && write(outputs.json, json) ? 0 : 1;
}

}  // namespace
}  // namespace kascade::bench

int main(int argc, char** argv) {
  using kascade::bench::Clock;
  kascade::bench::Settings settings;
  kascade::bench::Outputs outputs;
  std::vector<std::string> commands;
  CLI::App app("Speed of the engine's steps on a random model");
  app.option_defaults()->always_capture_default();
  app.add_option("commands", commands, "what to measure")
      ->required()
      ->check(
          CLI::IsMember({"prefill", "decode", "attention", "matmul", "end-to-end", "cost-model"}));
  app.add_option("--shape", settings.shape,
                 "llama-3.2-1b, llama-3.1-8b, smollm2-135m or a config.json");
  app.add_option("--layers", settings.layers, "use the first N layers only; 0 = all")
      ->check(CLI::Range(0, 1024));
  app.add_option("--length", settings.length, "rows of a prefill chunk")
      ->check(CLI::Range(1, 65536));
  app.add_option("--depth", settings.depths, "tokens before the measured rows")
      ->delimiter(',')
      ->check(CLI::Range(0, 1 << 24));
  app.add_option("--sequences", settings.sequences, "how many decode together")
      ->delimiter(',')
      ->check(CLI::Range(1, 1024));
  app.add_option("--mode", settings.modes)
      ->delimiter(',')
      ->check(CLI::IsMember({"dense", "sparse"}));
  app.add_option("--weights", settings.weights, "a block format of GGUF stands for random blocks")
      ->check(CLI::IsMember({"auto", "f32", "bf16", "int8", "int4", "Q8_0", "Q4_0", "Q4_1", "Q5_0",
                             "Q5_1", "Q4_K", "Q5_K", "Q6_K"}));
  app.add_option("--kv-cache-dtype", settings.kv_cache_dtype)
      ->check(CLI::IsMember({"auto", "f32", "bf16", "int8"}));
  CLI::Option* ratio =
      app.add_option("--ratio", settings.ratio,
                     "share of the keys that layers of the synthetic schedule attend to")
          ->check(CLI::Range(0.001, 1.0));
  app.add_option("--schedule", settings.schedule,
                 "schedule file (kascade calibrate --out) whose layers, head maps and selection "
                 "settings sparse steps have; else a synthetic schedule")
      ->excludes(ratio);
  app.add_option("--rule", settings.rule, "who chooses keys in prefill: tiles or single rows")
      ->check(CLI::IsMember({"tile", "row"}));
  app.add_option("--threads", settings.threads, "0 = one per core that this process may use")
      ->check(CLI::Range(0, 1024));
  app.add_option("--clock", settings.clock,
                 "wall time, or with --threads 1 the thread's own (on a busy machine)")
      ->transform(CLI::CheckedTransformer(
          std::map<std::string, Clock>{{"wall", Clock::kWall}, {"thread", Clock::kThread}}));
  app.add_option("--repeat", settings.repeat, "samples of each measurement")
      ->check(CLI::Range(1, 1000));
  app.add_option("--json", outputs.json, "file for all figures");
  app.add_option("--out", outputs.markdown, "Markdown file for the tables, which are also printed");
  CLI11_PARSE(app, argc, argv);
  return kascade::bench::run(settings, commands, outputs);
}
