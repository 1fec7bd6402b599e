#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "client/commands/attention_flags.h"
#include "client/commands/commands.h"
#include "client/commands/number_checks.h"
#include "client/commands/priority_flag.h"
#include "client/commands/texts.h"
#include "client/rpc/failure.h"
#include "client/rpc/replicas.h"
#include "client/rpc/score_requests.h"
#include "client/views/score_view.h"
#include "kascade/v1/inference_service.grpc.pb.h"
#include "tools/terminal/print.h"

namespace kascade::client {
namespace {

struct ScoreOptions {
  std::vector<std::string> files{};
  TextFlags texts{};
  std::string phase{}, protocol{};
  AttentionFlags attention{};
  std::optional<int32_t> window{};  // of the baseline window, else of the protocol
  std::optional<int32_t> window_tokens{}, stride_tokens{};
  bool bos = false;
  bool no_bos = false;
  bool parse_special = false;
  bool tokens = false;
  std::string priority{};
  std::vector<std::string> servers{};
  // Requirements that the user states; the exit code is kQualityCheck if one is not met.
  std::optional<double> degradation_below{}, keys_attended_below{}, reuse_layers_at_least{};
};

// The request without its inputs.
v1::ScoreRequest request_of(const ScoreOptions& options) {
  v1::ScoreRequest request;
  if (auto attention = attention_of(options.attention)) {
    *request.mutable_attention() = *std::move(attention);
  }
  if (options.phase == "both") {
    request.set_tile_comparison(true);
  } else if (!options.phase.empty()) {
    request.set_phase(value_of<v1::SelectionPhase>(options.phase));
  }
  if (!options.protocol.empty()) {
    request.set_protocol(value_of<v1::ScoreProtocol>(options.protocol));
  }
  if (options.window_tokens) request.set_window_tokens(*options.window_tokens);
  if (options.stride_tokens) request.set_stride_tokens(*options.stride_tokens);
  if (options.texts.max_tokens_per_text) {
    request.set_max_tokens_per_text(*options.texts.max_tokens_per_text);
  }
  if (options.bos || options.no_bos) request.set_add_bos(options.bos);
  if (options.parse_special) request.set_parse_special_tokens(true);
  if (options.tokens) request.mutable_response()->set_tokens(true);
  request.set_priority(priority_of(options.priority));
  return request;
}

void print_run(const Globals& globals, const ScoreOptions& options, const ScoreRun& run) {
  if (const std::string warning = suspicion(run.total); !warning.empty()) {
    fmt::print(stderr, "kascade: warning: {}\n", warning);
  }
  if (globals.json) {
    print_json(score_json(run));
    return;
  }
  for (size_t i = 0; options.tokens && i < run.files.size(); ++i) {
    fmt::print("{}\n{}\n", paint(Colour::kBold, run.name(i)), token_table(run, i));
  }
  fmt::print("{}", score_text(run));
}

// Returns an error for the first requirement that the run does not meet.
absl::Status check_demands(const ScoreOptions& options, const v1::ScoreSummary& total) {
  const auto& attention = total.attention();
  if (options.degradation_below) {
    if (!total.comparison().has_degradation_percent()) {
      return absl::FailedPreconditionError("no degradation to judge (--degradation-below)");
    }
    if (!(total.comparison().degradation_percent() < *options.degradation_below)) {
      return absl::FailedPreconditionError(fmt::format(
          "degradation {} is not below {:g} % (--degradation-below)",
          signed_percent(total.comparison().degradation_percent(), 4), *options.degradation_below));
    }
  }
  if (options.keys_attended_below &&
      !(attention.keys_attended_ratio() < *options.keys_attended_below)) {
    return absl::FailedPreconditionError(
        fmt::format("keys attended {:.4f} is not below {:g} (--keys-attended-below)",
                    attention.keys_attended_ratio(), *options.keys_attended_below));
  }
  if (options.reuse_layers_at_least &&
      !(attention.reuse_layers_ratio() >= *options.reuse_layers_at_least)) {
    return absl::FailedPreconditionError(
        fmt::format("share of reuse layers {:.4f} is below {:g} (--reuse-layers-at-least)",
                    attention.reuse_layers_ratio(), *options.reuse_layers_at_least));
  }
  return absl::OkStatus();
}

absl::Status score_on_one(const Globals& globals, const ScoreOptions& options,
                          const std::vector<NamedText>& texts, ScoreRun& run) {
  const auto channel = connect(globals);
  if (!channel.ok()) return channel.status();
  const auto stub = v1::InferenceService::NewStub(*channel);
  return score_texts(globals, *stub, request_of(options), texts, run);
}

// Two requests for each server, so that none waits for the next one.
absl::Status score_on_several(const Globals& globals, const ScoreOptions& options,
                              const std::vector<NamedText>& texts, ScoreRun& run) {
  constexpr int kAttempts = 6;
  const auto replicas = connect_replicas(globals, options.servers);
  if (!replicas.ok()) return replicas.status();
  const auto stub = v1::InferenceService::NewStub(replicas->channel);
  return score_texts(
      replicas->globals, *stub, request_of(options), texts, run,
      {.size = kSharedRequest, .at_once = 2 * replicas->servers, .attempts = kAttempts});
}

int run_score(const Globals& globals, const ScoreOptions& options) {
  const auto texts = read_named_texts(options.files, options.texts);
  if (!texts.ok()) return fail(texts.status());
  ScoreRun run;
  const absl::Status status = options.servers.empty()
                                  ? score_on_one(globals, options, *texts, run)
                                  : score_on_several(globals, options, *texts, run);
  if (!status.ok()) return fail(status);
  print_run(globals, options, run);
  const absl::Status demands = check_demands(options, run.total);
  if (demands.ok()) return kSuccess;
  print_failure(demands);
  return kQualityCheck;
}

// --window stands for --window-tokens, except that it belongs to the baseline of this name.
void assign_window(const CLI::Option& window_tokens, ScoreOptions& options) {
  if (!options.window) return;
  if (options.attention.baseline == "window") {
    options.attention.window = options.window;
  } else if (window_tokens.count() > 0) {
    throw CLI::ExcludesError("--window", "--window-tokens");
  } else {
    options.window_tokens = options.window;
  }
}

// What is printed, and what must hold.
void add_output_options(CLI::App& command, ScoreOptions& options) {
  command.add_flag("--tokens", options.tokens, "Also one line per token");
  command
      .add_option("--degradation-below", options.degradation_below,
                  "Compare: exit 3 unless the perplexity rises by less, percent")
      ->type_name("PCT")
      ->check(number_between(-1e6, 1e6));
  command
      .add_option("--keys-attended-below", options.keys_attended_below,
                  "Exit 3 unless fewer of the causal keys are attended to, 0 to 1")
      ->type_name("RATIO")
      ->check(number_between(0, 1));
  command
      .add_option("--reuse-layers-at-least", options.reuse_layers_at_least,
                  "Exit 3 unless so many of the layers reuse, 0 to 1")
      ->type_name("RATIO")
      ->check(number_between(0, 1));
}

void add_special_token_options(CLI::App& command, ScoreOptions& options) {
  CLI::Option* bos = command.add_flag("--bos", options.bos, "Put the BOS token in front");
  command.add_flag("--no-bos", options.no_bos, "Do not put the BOS token in front")->excludes(bos);
  command.add_flag("--parse-special", options.parse_special,
                   "Special tokens' names in the texts become those tokens");
}

// Where and when the texts are scored.
void add_server_options(CLI::App& command, ScoreOptions& options) {
  add_priority_flag(command, "batch", options.priority);
  command
      .add_option("--servers", options.servers,
                  "Spread the texts over servers with the same model and schedule, in place of "
                  "--server; texts of a server that is lost are scored again on another one")
      ->type_name("HOST:PORT,…")
      ->delimiter(',')
      ->allow_extra_args(false);
}

}  // namespace

void add_score(CLI::App& app, const Globals& globals, Action& chosen) {
  CLI::App* command = app.add_subcommand("score", "Perplexity of texts: dense, sparse or both");
  const auto options = std::make_shared<ScoreOptions>();
  command->add_option("FILE", options->files, "UTF-8 texts; - is standard input")->required();
  add_text_flags(*command, options->texts);
  add_attention_flags(*command, {"dense", "sparse", "compare"}, options->attention);
  add_comparison_flags(*command, options->attention);
  command
      ->add_option("--phase", options->phase,
                   "Who decides a scored token's keys: its own row, its tile (optimistic), or, to "
                   "compare, both in turn [row]")
      ->check(CLI::IsMember({"row", "tile", "both"}));
  command
      ->add_option(
          "--protocol", options->protocol,
          "How to cut: in one piece; as lm-evaluation-harness, llama-perplexity or Hugging "
          "Face's guide do [whole if it fits, else rolling]")
      ->check(CLI::IsMember({"whole", "rolling", "chunk", "strided"}));
  CLI::Option* window_tokens =
      command->add_option("--window-tokens", options->window_tokens,
                          "Tokens of a window of the protocol [the context and one more, which is "
                          "only predicted; strided: the context; chunk: 512]");
  command
      ->add_option("--window", options->window,
                   "The same; with --baseline window the keys that a token attends to")
      ->type_name("INT");
  command->add_option("--stride", options->stride_tokens,
                      "Strided: tokens from window to window [half a window]");
  add_special_token_options(*command, *options);
  add_server_options(*command, *options);
  add_output_options(*command, *options);
  command->callback([&, options, window_tokens] {
    assign_window(*window_tokens, *options);
    check_baseline(options->attention);
    chosen = [&globals, options] { return run_score(globals, *options); };
  });
}

}  // namespace kascade::client
