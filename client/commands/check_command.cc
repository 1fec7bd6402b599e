#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <memory>
#include <string>

#include "client/benchmark/all_keys_check.h"
#include "client/commands/commands.h"
#include "client/commands/files.h"
#include "client/commands/server_flags.h"
#include "client/rpc/failure.h"
#include "client/views/reports.h"
#include "tools/bundled_texts/bundled_text.h"
#include "tools/terminal/print.h"

namespace kascade::client {
namespace {

// Enough for a calibration, whatever the tokenizer.
constexpr size_t kTextBytes = 64000;

struct CheckOptions {
  std::string text{};
  ServerFlags server{};
  int32_t length = 64;
  int32_t runs = 20;
};

std::string check_text(const v1::GetModelInfoResponse& info, const AllKeysCheck& check) {
  Facts facts;
  facts.add("Model",
            fmt::format("{}: {}, {} parameters, weights {}", info.model().name(),
                        counted(info.model().layers(), "layer"),
                        with_commas(info.model().parameters()), info.runtime().weights_dtype()));
  facts.add(
      "All keys",
      fmt::format("{}: sparse with all keys, in every tile, {} dense; largest difference {:.1e} "
                  "nats over {} (at most {:.1e}); {} of the layers reuse",
                  check.passed() ? paint(Colour::kGreen, "PASS") : paint(Colour::kRed, "FAIL"),
                  check.passed() ? "equals" : "differs from", check.largest_difference,
                  counted(check.tokens, "token"), check.tolerance,
                  percent(check.reuse_layers_ratio)));
  facts.add(
      "Forward",
      fmt::format("{:.3f} ms dense, {:.3f} ms sparse for {} (medians of {})", check.dense.median(),
                  check.sparse.median(), counted(check.forward_tokens, "token"),
                  counted(static_cast<int64_t>(check.dense.milliseconds.size()), "run")));
  facts.add("Bytes",
            fmt::format("{} of weights, {} of keys and values per token",
                        with_commas(check.weight_bytes), with_commas(check.kv_bytes_per_token)));
  return facts.text();
}

Json check_json(const AllKeysCheck& check) {
  return {{"passed", check.passed()},
          {"tokens", check.tokens},
          {"largest_difference", check.largest_difference},
          {"tolerance", check.tolerance},
          {"keys_attended_ratio", check.keys_attended_ratio},
          {"reuse_layers_ratio", check.reuse_layers_ratio},
          {"forward_tokens", check.forward_tokens},
          {"dense_milliseconds", check.dense.median()},
          {"sparse_milliseconds", check.sparse.median()},
          {"weight_bytes", check.weight_bytes},
          {"kv_bytes_per_token", check.kv_bytes_per_token}};
}

absl::StatusOr<std::string> text_of_check(const std::string& file) {
  if (!file.empty()) return read_text(file);
  const auto bundled = kascade::bundled_text("calibration.txt", "the argument FILE");
  if (!bundled.ok()) return bundled.status();
  auto text = read_text(*bundled);
  if (text.ok()) text->resize(place_to_cut(*text, kTextBytes));
  return text;
}

int run_check(const Globals& globals, const CheckOptions& options) {
  const auto text = text_of_check(options.text);
  if (!text.ok()) return fail(text.status());
  const auto server = connect_or_start(globals, options.server);
  if (!server.ok()) return fail(server.status());
  Session& session = *(*server)->session;
  const auto check = check_all_keys(session, *text, options.length, options.runs);
  if (!check.ok()) return fail(check.status());
  if (globals.json) {
    print_json(check_json(*check));
  } else {
    fmt::print("{}", check_text(session.info(), *check));
  }
  if (check->passed()) return kSuccess;
  print_failure(
      absl::FailedPreconditionError("sparse attention to all keys is not dense attention"));
  return kQualityCheck;
}

}  // namespace

void add_check(CLI::App& app, const Globals& globals, Action& chosen) {
  CLI::App* command = app.add_subcommand(
      "check", "Test that sparse attention to all keys equals dense; time a forward pass");
  const auto options = std::make_shared<CheckOptions>();
  command->add_option("FILE", options->text,
                      "UTF-8 text to compare on [the bundled one's beginning]");
  add_server_flags(*command, options->server);
  command->add_option("--length", options->length, "Tokens of a timed forward pass")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  command->add_option("--runs", options->runs, "Timed runs of each kind, after one warm-up")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  command->callback(
      [&, options] { chosen = [&globals, options] { return run_check(globals, *options); }; });
}

}  // namespace kascade::client
