#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "client/commands/attention_flags.h"
#include "client/commands/commands.h"
#include "client/commands/files.h"
#include "client/rpc/failure.h"
#include "client/views/score_view.h"
#include "kascade/v1/inference_service.grpc.pb.h"
#include "tools/terminal/print.h"
#include "tools/terminal/progress.h"

namespace kascade::client {
namespace {

struct ScoreOptions {
  std::vector<std::string> files{};
  std::string phase{}, protocol{};
  AttentionFlags attention{};
  std::optional<int32_t> window{};  // of the baseline window, else of the protocol
  std::optional<int32_t> window_tokens{}, stride_tokens{};
  bool bos = false;
  bool no_bos = false;
  bool parse_special = false;
  bool tokens = false;
  // Requirements that the user states; the exit code is kQualityCheck if one is not met.
  std::optional<double> degradation_below{}, keys_attended_below{}, reuse_layers_at_least{};
};

v1::ScoreRequest request_of(const ScoreOptions& options, std::vector<std::string> texts) {
  v1::ScoreRequest request;
  for (std::string& text : texts) request.add_inputs()->set_text(std::move(text));
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
  if (options.bos || options.no_bos) request.set_add_bos(options.bos);
  if (options.parse_special) request.set_parse_special_tokens(true);
  if (options.tokens) request.mutable_response()->set_tokens(true);
  return request;
}

// Stores one message of the stream in `run`.
absl::Status take(v1::ScoreResponse& response, ScoreRun& run, ProgressDisplay& display) {
  if (response.has_started()) run.started = response.started();
  if (response.has_total()) run.total = response.total();
  if (response.has_progress()) {
    const auto& progress = response.progress();
    display.show({.stage = "scoring",
                  .done = progress.tokens_done(),
                  .total = progress.tokens_total(),
                  .tokens_per_second = progress.tokens_per_second()});
  }
  const auto index = static_cast<size_t>(response.has_tokens()    ? response.tokens().input_index()
                                         : response.has_summary() ? response.summary().input_index()
                                                                  : 0);
  if (index >= run.files.size()) return absl::InternalError("the server answers another request");
  if (response.has_tokens()) run.tokens[index].push_back(std::move(*response.mutable_tokens()));
  if (response.has_summary()) run.summaries[index] = std::move(*response.mutable_summary());
  return absl::OkStatus();
}

absl::Status read_scores(const Globals& globals, v1::InferenceService::Stub& stub,
                         const v1::ScoreRequest& request, ScoreRun& run) {
  Call call(globals);
  const auto reader = stub.Score(&call.context(), request);
  ProgressDisplay display;
  v1::ScoreResponse response;
  absl::Status taken;
  while (reader->Read(&response)) {
    taken.Update(take(response, run, display));
    if (!taken.ok()) call.cancel();
  }
  const absl::Status status = call.result(reader->Finish());
  if (!taken.ok()) return taken;
  return status;
}

// Whether every column has a value for each token, and each token has its spelling.
bool fits(const v1::ScoreTokens& part, const v1::TokenizedText& spelled, bool compared) {
  const int count = part.token_ids_size();
  const int twins = compared ? count : 0;
  const int64_t end = part.first_position() + count;
  const bool whole = part.first_position() >= 0 && end <= spelled.token_texts_size() &&
                     end <= spelled.token_ids_size() && part.logprobs_size() == count &&
                     part.top1_size() == count && part.sparse_logprobs_size() == twins &&
                     part.kl_size() == twins;
  return whole && std::equal(part.token_ids().begin(), part.token_ids().end(),
                             spelled.token_ids().begin() + part.first_position());
}

// Fetches the spelling of the scored tokens by tokenizing the same text in the same way, so that
// positions agree.
absl::Status spell(const Globals& globals, v1::InferenceService::Stub& stub,
                   const v1::ScoreRequest& request, ScoreRun& run) {
  v1::TokenizeRequest tokenize;
  for (const auto& input : request.inputs()) tokenize.add_texts(input.text());
  if (request.has_add_bos()) tokenize.set_add_bos(request.add_bos());
  tokenize.set_parse_special_tokens(request.parse_special_tokens());
  tokenize.set_details(true);
  const auto response = call(globals, stub, &v1::InferenceService::Stub::Tokenize, tokenize);
  if (!response.ok()) return response.status();
  run.spelled.assign(response->results().begin(), response->results().end());
  bool good = run.spelled.size() == run.files.size();
  for (size_t i = 0; good && i < run.files.size(); ++i) {
    for (const auto& part : run.tokens[i]) {
      good = good && fits(part, run.spelled[i], run.total.has_comparison());
    }
  }
  if (good) return absl::OkStatus();
  return absl::InternalError("the server's tokens and their spelling do not match");
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
    fmt::print("{}\n{}\n", paint(Colour::kBold, run.files[i]), token_table(run, i));
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
      return absl::FailedPreconditionError(
          fmt::format("degradation {:.4f} % is not below {:g} % (--degradation-below)",
                      total.comparison().degradation_percent(), *options.degradation_below));
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

int run_score(const Globals& globals, const ScoreOptions& options) {
  auto texts = read_texts(options.files);
  if (!texts.ok()) return fail(texts.status());
  const v1::ScoreRequest request = request_of(options, *std::move(texts));
  const auto channel = connect(globals);
  if (!channel.ok()) return fail(channel.status());
  const auto stub = v1::InferenceService::NewStub(*channel);
  const size_t count = options.files.size();
  ScoreRun run{.files = options.files};
  run.summaries.resize(count);
  run.tokens.resize(count);
  absl::Status status = read_scores(globals, *stub, request, run);
  if (status.ok() && options.tokens) status = spell(globals, *stub, request, run);
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

void add_demands(CLI::App& command, ScoreOptions& options) {
  command
      .add_option("--degradation-below", options.degradation_below,
                  "Compare: exit 3 unless the perplexity rises by less, percent")
      ->type_name("PCT");
  command
      .add_option("--keys-attended-below", options.keys_attended_below,
                  "Exit 3 unless fewer of the causal keys are attended to, 0 to 1")
      ->type_name("RATIO");
  command
      .add_option("--reuse-layers-at-least", options.reuse_layers_at_least,
                  "Exit 3 unless so many of the layers reuse, 0 to 1")
      ->type_name("RATIO");
}

}  // namespace

void add_score(CLI::App& app, const Globals& globals, Action& chosen) {
  CLI::App* command = app.add_subcommand("score", "Perplexity of texts: dense, sparse or both");
  const auto options = std::make_shared<ScoreOptions>();
  command->add_option("FILE", options->files, "UTF-8 texts; - is standard input")->required();
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
  CLI::Option* bos = command->add_flag("--bos", options->bos, "Put the BOS token in front");
  command->add_flag("--no-bos", options->no_bos, "Do not put the BOS token in front")
      ->excludes(bos);
  command->add_flag("--parse-special", options->parse_special,
                    "Special tokens' names in the texts become those tokens");
  command->add_flag("--tokens", options->tokens, "Also one line per token");
  add_demands(*command, *options);
  command->callback([&, options, window_tokens] {
    assign_window(*window_tokens, *options);
    check_baseline(options->attention);
    chosen = [&globals, options] { return run_score(globals, *options); };
  });
}

}  // namespace kascade::client
