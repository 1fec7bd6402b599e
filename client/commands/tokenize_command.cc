#include <fmt/format.h>
#include <fmt/ranges.h>

#include <CLI/CLI.hpp>
#include <memory>
#include <string>
#include <vector>

#include "client/commands/commands.h"
#include "client/commands/files.h"
#include "client/rpc/failure.h"
#include "client/views/reports.h"
#include "kascade/v1/inference_service.grpc.pb.h"
#include "tools/terminal/print.h"

namespace kascade::client {
namespace {

using Stub = v1::InferenceService::Stub;

struct TokenizeOptions {
  std::string text{};
  bool no_bos = false;
  bool parse_special = false;
  bool details = false;
};

void print_tokens(const TokenizeOptions& options, const v1::TokenizedText& tokens) {
  if (!options.details) {
    fmt::print("{}\n", fmt::join(tokens.token_ids(), " "));
    return;
  }
  Table table({{"Id"}, {"Byte"}, {"Token", Table::Align::kLeft}});
  for (int i = 0; i < tokens.token_ids_size(); ++i) {
    table.add({std::to_string(tokens.token_ids(i)),
               i < tokens.byte_offsets_size() ? std::to_string(tokens.byte_offsets(i)) : "-",
               i < tokens.token_texts_size() ? tokens.token_texts(i) : ""});
  }
  fmt::print("{}", table.text());
}

int run_tokenize(const Globals& globals, const TokenizeOptions& options) {
  auto text = text_argument(options.text);
  if (!text.ok()) return fail(text.status());
  v1::TokenizeRequest request;
  request.add_texts(*std::move(text));
  if (options.no_bos) request.set_add_bos(false);
  if (options.parse_special) request.set_parse_special_tokens(true);
  if (options.details) request.set_details(true);
  const auto response = connect_and_call<v1::InferenceService>(globals, &Stub::Tokenize, request);
  if (!response.ok()) return fail(response.status());
  if (response->results_size() != 1) {
    return fail(absl::InternalError("the server sent no result"));
  }
  const v1::TokenizedText& tokens = response->results(0);
  if (!globals.json) {
    print_tokens(options, tokens);
    return kSuccess;
  }
  Json out = {{"count", tokens.token_ids_size()}, {"token_ids", tokens.token_ids()}};
  if (options.details) {
    out["token_texts"] = tokens.token_texts();
    out["byte_offsets"] = tokens.byte_offsets();
  }
  print_json(out);
  return kSuccess;
}

int run_detokenize(const Globals& globals, const std::vector<int32_t>& ids, bool keep_special) {
  v1::DetokenizeRequest request;
  request.mutable_token_ids()->Add(ids.begin(), ids.end());
  if (keep_special) request.set_skip_special_tokens(false);
  const auto response = connect_and_call<v1::InferenceService>(globals, &Stub::Detokenize, request);
  if (!response.ok()) return fail(response.status());
  if (globals.json) {
    print_json({{"text", response->text()}});
  } else {
    fmt::print("{}\n", response->text());
  }
  return kSuccess;
}

}  // namespace

void add_tokenize(CLI::App& app, const Globals& globals, Action& chosen) {
  const auto options = std::make_shared<TokenizeOptions>();
  CLI::App* tokenize = app.add_subcommand("tokenize", "Text to token ids");
  tokenize
      ->add_option("TEXT", options->text,
                   "The text; - reads standard input, less one final newline")
      ->required();
  tokenize->add_flag("--no-bos", options->no_bos, "Do not put the BOS token in front");
  tokenize->add_flag("--parse-special", options->parse_special,
                     "Special tokens' names in the text become those tokens");
  tokenize->add_flag("--details", options->details, "Also spelling and place of each token");
  tokenize->callback(
      [&, options] { chosen = [&globals, options] { return run_tokenize(globals, *options); }; });

  const auto ids = std::make_shared<std::vector<int32_t>>();
  const auto keep = std::make_shared<bool>(false);
  CLI::App* detokenize = app.add_subcommand("detokenize", "Token ids to text");
  detokenize->add_option("ID", *ids, "Token ids")->required();
  detokenize->add_flag("--keep-special", *keep, "Special tokens are part of the text");
  detokenize->callback([&, ids, keep] {
    chosen = [&globals, ids, keep] { return run_detokenize(globals, *ids, *keep); };
  });
}

}  // namespace kascade::client
