// kascade-train: trains sparse adapters for a frozen model on texts.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <atomic>
#include <chrono>
#include <cmath>
#include <csignal>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "nlohmann/json.hpp"
#include "tools/options/number_option.h"
#include "tools/terminal/print.h"
#include "tools/terminal/progress.h"
#include "tools/terminal/standard_streams.h"
#include "tools/train/evaluation.h"
#include "tools/train/training_run.h"
#include "tools/version/version.h"

namespace kascade::train {
namespace {

constexpr char kProgram[] = "kascade-train";
constexpr int kUsage = 2;
constexpr int kDiverged = 3;
constexpr int kInterrupted = 130;

std::atomic<bool> interrupted{false};
static_assert(std::atomic<bool>::is_always_lock_free, "set by a signal handler");

struct Arguments {
  TrainingRequest request{};
  std::vector<std::string> files{};
  std::string model{};
  std::string start{};
  std::string evaluated{};  // folder of an adapter to evaluate; empty: train
  bool json = false;
  std::string output_name{};
  std::string output_folder = "ckpt";
  std::string task_name = "text";
  std::vector<std::string> lengths{"1024"};
  int32_t batch_size = 4;
  int32_t accumulation = 4;
  int32_t stride = 0;           // 0: as long as a block
  int32_t selection_block = 0;  // 0: as long as a compressed block
  std::string key_compressor = "max_pool";
  std::string value_compressor = "mlp";
  std::string gate = "sigmoid";
  std::string decay = "linear";
  std::string stage = "layers";
};

void add_data_options(CLI::App& app, Arguments& arguments) {
  app.add_option("--model-id", arguments.model, "Folder of the frozen model")->required();
  app.add_option("--data-path", arguments.files, "Files to train on, or to evaluate with")
      ->required();
  app.add_option("--output-name", arguments.output_name,
                 "First part of the output folder's name; required for training");
  CLI::Option* evaluate = app.add_option(
      "--evaluate", arguments.evaluated,
      "Train nothing: compare the adapter in this folder with dense attention on all of the files");
  app.add_flag("--json", arguments.json, "With --evaluate: print JSON")->needs(evaluate);
  app.add_option("--output-folder", arguments.output_folder, "Where the output folder is made")
      ->capture_default_str();
  app.add_option("--task-name", arguments.task_name,
                 "What the files are: gsm8k, asdiv-aug, strategyqa or aqua: questions, one JSON "
                 "object a line; any other name: plain text. Part of the output folder's name")
      ->capture_default_str();
  app.add_option("--start-from", arguments.start,
                 "Folder of an adapter to train further; its options are kept [none]")
      ->excludes(evaluate);
  app.add_option("--max-length", arguments.lengths,
                 "Tokens of a text; several lengths take turns, separated by commas")
      ->delimiter(',')
      ->capture_default_str();
  options::add_number(app, "--held-out", arguments.request.texts.held_out_share, 0.001, 0.9,
                      "Share of each file, its end, that is not trained on");
  options::add_whole(app, "--max-texts", arguments.request.texts.most_texts, 0, 1'000'000'000,
                     "Texts that are trained on at most; 0: all");
}

void add_training_options(CLI::App& app, Arguments& arguments) {
  training::TrainingSettings& settings = arguments.request.settings;
  app.add_option("--stage", arguments.stage,
                 "layers: each layer learns the output of dense attention; model: the whole model "
                 "learns by --loss-mode")
      ->check(CLI::IsMember({"layers", "model"}))
      ->capture_default_str();
  app.add_option("--loss-mode", arguments.request.loss_name,
                 "With --stage model: mse_hidden, kl_logits, kl_output_only, mixed or ce")
      ->capture_default_str();
  options::add_whole(app, "--batch-size", arguments.batch_size, 1, 4096, "Texts of a batch");
  options::add_whole(app, "--gradient-accumulation-steps", arguments.accumulation, 1, 4096,
                     "Batches of an update");
  options::add_number(app, "--n-epochs", settings.epochs, 1e-6, 1e6, "How often each text is seen");
  options::add_number(app, "--learning-rate", settings.optimizer.learning_rate, 1e-12, 10,
                      "The largest learning rate");
  options::add_number(app, "--warmup-ratio", settings.optimizer.warmup_ratio, 0, 1,
                      "Share of the updates in which the learning rate rises");
  app.add_option("--lr-decay", arguments.decay, "linear, cosine or none")->capture_default_str();
  options::add_number(app, "--weight-decay", settings.optimizer.weight_decay, 0, 10,
                      "Weight decay of matrices");
  options::add_number(app, "--clip-norm", settings.optimizer.clip_norm, 0, 1e9,
                      "Largest norm of the gradient; 0: no limit");
  options::add_whole(app, "--check-every", settings.updates_between_checks, 1, 1'000'000,
                     "Updates between computations of the held-out loss");
  options::add_whole(app, "--patience", settings.patience, 0, 1'000'000,
                     "Stop after so many of these without a better one; 0: never");
  options::add_whole(app, "--save-every", arguments.request.updates_between_checkpoints, 1,
                     1'000'000, "Updates between checkpoints");
  options::add_whole(app, "--keep", arguments.request.keep, 1, 1000, "Checkpoints that are kept");
  options::add_whole(app, "--threads", arguments.request.threads, 0, 4096,
                     "Compute threads; 0: one per usable core");
  app.add_option("--seed", settings.seed, "Of the first parameters and the order of the texts")
      ->capture_default_str();
}

void add_adapter_options(CLI::App& app, Arguments& arguments) {
  AdapterOptions& adapter = arguments.request.options;
  options::add_whole(app, "--compress-block-size", adapter.compress_block, 1, 256,
                     "Tokens that one compressed key stands for");
  options::add_whole(app, "--compress-stride", arguments.stride, 0, 256,
                     "Tokens from one compressed key to the next; 0: as many");
  options::add_whole(app, "--selection-block-size", arguments.selection_block, 0, 4096,
                     "Tokens of a block that is selected; 0: as many as are compressed");
  options::add_whole(app, "--num-selected-blocks", adapter.selected_blocks, 1, 4096,
                     "Blocks that a query selects at most");
  options::add_whole(app, "--first-blocks", adapter.first_blocks, 0, 4096,
                     "First blocks that are always selected");
  options::add_whole(app, "--local-blocks", adapter.local_blocks, 1, 4096,
                     "Last blocks that are always selected, the query's own included");
  options::add_whole(app, "--sliding-window-size", adapter.window, 1, 1 << 20,
                     "Last keys that the window branch attends to");
  app.add_option("--k-compress-method", arguments.key_compressor, "max_pool, mean_pool or mlp")
      ->capture_default_str();
  app.add_option("--v-compress-method", arguments.value_compressor, "max_pool, mean_pool or mlp")
      ->capture_default_str();
  options::add_number(app, "--expand-factor", adapter.mlp_expansion, 1e-6, 4,
                      "Units of a network, as a share of its inputs");
  app.add_flag("--shared-compressors", adapter.shared_mlp,
               "One network and one set of positions for all KV heads");
  app.add_flag("--compressor-norm", adapter.compressor_norm, "RMSNorm behind the compressors");
  options::add_whole(app, "--memory-slots", adapter.memory_slots, 0, 16,
                     "Learned keys and values that every query sees");
  app.add_option("--gate", arguments.gate, "sigmoid or softmax")->capture_default_str();
  options::add_number(app, "--gate-start-compressed", adapter.gate_start[0], -100, 100,
                      "The gate's bias for the compressed branch before training");
  options::add_number(app, "--gate-start-selected", adapter.gate_start[1], -100, 100,
                      "The same for the selected branch");
  options::add_number(app, "--gate-start-window", adapter.gate_start[2], -100, 100,
                      "The same for the window branch");
  app.add_flag("--own-output", adapter.own_output, "Train an output projection, too");
}

int fail(const absl::Status& status) {
  fmt::print(stderr, "{}: {}\n", kProgram, std::string(status.message()));
  return absl::IsCancelled(status) ? kInterrupted : 1;
}

int fail_usage(const std::string& message) {
  fmt::print(stderr, "{}: {} (see --help)\n", kProgram, message);
  return kUsage;
}

// ckpt/NAME-TASK-3epoch-MODEL-sparse
std::filesystem::path output_path(const Arguments& arguments) {
  std::filesystem::path model = std::filesystem::path(arguments.model).lexically_normal();
  if (!model.has_filename()) model = model.parent_path();
  return std::filesystem::path(arguments.output_folder) /
         fmt::format("{}-{}-{:g}epoch-{}-sparse", arguments.output_name, arguments.task_name,
                     arguments.request.settings.epochs, model.filename().string());
}

absl::Status read_lengths(const std::vector<std::string>& texts, std::vector<int32_t>& lengths) {
  lengths.clear();
  for (const std::string& text : texts) {
    const auto tokens = options::parse_whole(text, 2, 1 << 24);
    if (!tokens) {
      return absl::InvalidArgumentError("--max-length: expected whole numbers from 2 to 16777216");
    }
    lengths.push_back(static_cast<int32_t>(*tokens));
  }
  return absl::OkStatus();
}

// Sets what the request takes from texts. INVALID_ARGUMENT names the option.
absl::Status complete(Arguments& arguments) {
  TrainingRequest& request = arguments.request;
  AdapterOptions& adapter = request.options;
  request.model = arguments.model;
  if (arguments.evaluated.empty() && arguments.output_name.empty()) {
    return absl::InvalidArgumentError("--output-name is required");
  }
  request.start = arguments.evaluated.empty() ? arguments.start : arguments.evaluated;
  request.files.assign(arguments.files.begin(), arguments.files.end());
  request.task = question_task_named(arguments.task_name);
  request.output = output_path(arguments);
  if (auto status = read_lengths(arguments.lengths, request.texts.lengths); !status.ok()) {
    return status;
  }
  adapter.compress_stride = arguments.stride > 0 ? arguments.stride : adapter.compress_block;
  adapter.selection_block =
      arguments.selection_block > 0 ? arguments.selection_block : adapter.compress_block;
  adapter.shared_positions = adapter.shared_mlp;
  const auto keys = compressor_named(arguments.key_compressor);
  const auto values = compressor_named(arguments.value_compressor);
  const auto gate = gate_named(arguments.gate);
  const auto loss = training::loss_named(request.loss_name);
  const auto decay = training::decay_named(arguments.decay);
  for (const absl::Status& status :
       {keys.status(), values.status(), gate.status(), loss.status(), decay.status()}) {
    if (!status.ok()) return status;
  }
  adapter.key_compressor = *keys;
  adapter.value_compressor = *values;
  adapter.gate = *gate;
  request.settings.loss = *loss;
  request.settings.optimizer.decay = *decay;
  request.settings.stage =
      arguments.stage == "layers" ? training::Stage::kLayers : training::Stage::kModel;
  request.settings.texts_per_update = arguments.batch_size * arguments.accumulation;
  return validate(adapter);
}

// Prints one line for each check of the held-out loss, and shows the progress between them.
class Report {
 public:
  void take(const training::UpdateReport& done) {
    if (first_ == 0) first_ = done.update;
    tokens_ += done.tokens;
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - begin_;
    const auto updates = static_cast<double>(done.update - first_ + 1);
    display_.show({.stage = fmt::format("training, loss {:.5f}", done.loss),
                   .done = done.update,
                   .total = done.updates,
                   .tokens_per_second = static_cast<double>(tokens_) / elapsed.count(),
                   .eta_seconds = elapsed.count() / updates *
                                  static_cast<double>(done.updates - done.update)});
    if (!done.held_out) return;
    display_.finish();
    fmt::print(
        "update {} of {}: loss {:.5f}, held-out loss {:.5f}, gradient norm {:.3g}, branches "
        "compressed {:.3f}, selected {:.3f}, window {:.3f}\n",
        done.update, done.updates, done.loss, *done.held_out, done.gradient_norm,
        done.branch_weights[0], done.branch_weights[1], done.branch_weights[2]);
    std::fflush(stdout);
  }
  void finish() { display_.finish(); }

 private:
  client::ProgressDisplay display_;
  std::chrono::steady_clock::time_point begin_ = std::chrono::steady_clock::now();
  int64_t first_ = 0;
  int64_t tokens_ = 0;
};

void print_evaluation(const Evaluation& result) {
  const double rise = result.adapter_nll - result.dense_nll;
  fmt::print("{} of {} tokens in all, {} predicted, each text from its own beginning\n",
             client::counted(result.texts, "text"), client::with_commas(result.tokens),
             client::with_commas(result.predicted));
  fmt::print("  perplexity  dense {:.4f}, adapter {:.4f} ({:+.2f} %); {:+.5f} +- {:.5f} nats\n",
             result.dense_perplexity(), result.adapter_perplexity(), 100 * std::expm1(rise), rise,
             result.rise_error);
  fmt::print("  KL(dense || adapter) {:.5f} nats\n", result.divergence);
  fmt::print("  keys read   {:.2f} % of the causal keys\n", 100 * result.keys_share);
}

void print_json(const Evaluation& result) {
  const nlohmann::ordered_json object = {
      {"texts", result.texts},
      {"tokens", result.tokens},
      {"predicted_tokens", result.predicted},
      {"dense_perplexity", result.dense_perplexity()},
      {"adapter_perplexity", result.adapter_perplexity()},
      {"nll_rise", result.adapter_nll - result.dense_nll},
      {"nll_rise_error", result.rise_error},  // null for one text
      {"kl", result.divergence},
      {"keys_read_share", result.keys_share}};
  fmt::print("{}\n", object.dump(2));
}

int run_evaluation(const TrainingRequest& request, bool json) {
  client::ProgressDisplay display;
  const auto result = evaluate(request, interrupted, [&](int64_t done, int64_t texts) {
    display.show({.stage = "evaluating texts", .done = done, .total = texts});
  });
  display.finish();
  if (!result.ok()) return fail(result.status());
  json ? print_json(*result) : print_evaluation(*result);
  return 0;
}

int run_training(const TrainingRequest& request) {
  Report report;
  const auto outcome =
      train(request, interrupted, [&](const training::UpdateReport& done) { report.take(done); });
  report.finish();
  if (!outcome.ok()) return fail(outcome.status());
  fmt::print("{} parameters, trained on {} of {} tokens in all; {} held out\n",
             client::with_commas(outcome->parameters), client::counted(outcome->texts, "text"),
             client::with_commas(outcome->training_tokens),
             client::counted(outcome->held_out_texts, "text"));
  fmt::print("best held-out loss {:.5f} within {}\n", outcome->best_held_out,
             client::counted(outcome->updates, "update"));
  fmt::print("wrote {}\n", request.output.string());
  switch (outcome->end) {
    case training::TrainingEnd::kDiverged:
      fmt::print(stderr,
                 "{}: training diverged: a loss or gradient is not finite; the last good state was "
                 "kept. Try a smaller --learning-rate\n",
                 kProgram);
      return kDiverged;
    case training::TrainingEnd::kInterrupted:
      fmt::print(stderr, "{}: interrupted; the same command continues\n", kProgram);
      return kInterrupted;
    case training::TrainingEnd::kStoppedEarly:
      fmt::print("stopped early: the held-out loss no longer improved\n");
      return 0;
    case training::TrainingEnd::kFinished:
      break;
  }
  return 0;
}

int run(int argc, char** argv) {
  CLI::App app("Trains sparse adapters for a frozen model: docs/adapters.md", kProgram);
  app.footer(
      "Exit codes: 0 success, 1 error, 2 wrong usage, 3 training diverged, 130 interrupted.");
  Arguments arguments;
  add_data_options(app, arguments);
  add_training_options(app, arguments);
  add_adapter_options(app, arguments);
  app.set_version_flag("--version", version_line());
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& help) {
    return app.exit(help);
  } catch (const CLI::ParseError& error) {
    return fail_usage(error.what());
  }
  if (const auto status = complete(arguments); !status.ok()) {
    return fail_usage(std::string(status.message()));
  }
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) {
    std::signal(signal, [](int) { interrupted.store(true); });
  }
  if (!arguments.evaluated.empty()) return run_evaluation(arguments.request, arguments.json);
  return run_training(arguments.request);
}

}  // namespace
}  // namespace kascade::train

int main(int argc, char** argv) {
  using namespace kascade;
  client::open_standard_streams();
  return client::run_with_standard_output(train::kProgram, [&] { return train::run(argc, argv); });
}
