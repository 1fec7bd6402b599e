#include <fmt/format.h>
#include <fmt/ranges.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "client/commands/attention_flags.h"
#include "client/commands/commands.h"
#include "client/commands/escapes.h"
#include "client/commands/files.h"
#include "client/commands/number_checks.h"
#include "client/commands/priority_flag.h"
#include "client/rpc/failure.h"
#include "client/views/reports.h"
#include "kascade/v1/inference_service.grpc.pb.h"
#include "tools/terminal/print.h"

namespace kascade::client {
namespace {

constexpr char kRandomSeed[] = "-1";

struct GenerateOptions {
  std::string prompt{};
  std::optional<double> temperature{}, top_p{}, min_p{};
  std::optional<double> repetition_penalty{}, presence_penalty{}, frequency_penalty{};
  std::optional<int32_t> max_tokens{}, min_tokens{}, top_k{}, logprobs{};
  std::string seed = kRandomSeed;
  std::vector<std::string> stops{};
  std::vector<int32_t> stop_tokens{};
  AttentionFlags attention{};
  std::string system{};
  std::string chat_format = "auto";
  bool chat = false;
  bool ignore_eos = false;
  bool include_stop = false;
  bool no_bos = false;
  bool parse_special = false;
  bool stats = false;
  std::string priority{};
};

// The contents of the stream.
struct Generated {
  v1::GenerateStarted started{};
  v1::GenerateFinished finished{};
  std::string text{};
  std::vector<int32_t> token_ids{};
  std::vector<float> logprobs{};
  std::vector<v1::TopCandidates> top{};
};

void fill_sampling(const GenerateOptions& options, v1::SamplingParameters& sampling) {
  if (options.temperature) sampling.set_temperature(*options.temperature);
  if (options.top_k) sampling.set_top_k(*options.top_k);
  if (options.top_p) sampling.set_top_p(*options.top_p);
  if (options.min_p) sampling.set_min_p(*options.min_p);
  if (options.seed != kRandomSeed) sampling.set_seed(std::stoull(options.seed));
  if (options.repetition_penalty) sampling.set_repetition_penalty(*options.repetition_penalty);
  if (options.presence_penalty) sampling.set_presence_penalty(*options.presence_penalty);
  if (options.frequency_penalty) sampling.set_frequency_penalty(*options.frequency_penalty);
}

void fill_stopping(const GenerateOptions& options, v1::StoppingCriteria& stopping) {
  if (options.max_tokens) stopping.set_max_new_tokens(*options.max_tokens);
  if (options.min_tokens) stopping.set_min_new_tokens(*options.min_tokens);
  for (const std::string& stop : options.stops) {
    stopping.add_stop_strings(without_escapes(stop).value());  // check_escapes() saw it
  }
  for (const int32_t token : options.stop_tokens) stopping.add_stop_token_ids(token);
  if (options.ignore_eos) stopping.set_ignore_eos(true);
  if (options.include_stop) stopping.set_include_stop_string(true);
}

void fill_chat(const GenerateOptions& options, std::string prompt, v1::ChatPrompt& chat) {
  if (!options.system.empty()) {
    auto& system = *chat.add_messages();
    system.set_role(v1::CHAT_ROLE_SYSTEM);
    system.set_content(options.system);
  }
  auto& user = *chat.add_messages();
  user.set_role(v1::CHAT_ROLE_USER);
  user.set_content(std::move(prompt));
  if (options.chat_format != "auto") {
    chat.set_format(value_of<v1::ChatFormat>(options.chat_format));
  }
}

v1::GenerateRequest request_of(const GenerateOptions& options, std::string prompt) {
  v1::GenerateRequest request;
  if (options.chat) {
    fill_chat(options, std::move(prompt), *request.mutable_chat());
  } else {
    request.set_text(std::move(prompt));
  }
  fill_sampling(options, *request.mutable_sampling());
  fill_stopping(options, *request.mutable_stopping());
  if (options.logprobs) {
    request.mutable_response()->set_logprobs(true);
    request.mutable_response()->set_top_logprobs(*options.logprobs);
  }
  if (auto attention = attention_of(options.attention)) {
    *request.mutable_attention() = *std::move(attention);
  }
  if (options.no_bos) request.set_add_bos(false);
  if (options.parse_special) request.set_parse_special_tokens(true);
  request.set_priority(priority_of(options.priority));
  return request;
}

// Writes text to standard output as it arrives; with --json, it is all written at the end.
absl::Status read_stream(const Globals& globals, v1::InferenceService::Stub& stub,
                         const v1::GenerateRequest& request, Generated& generated) {
  Call call(globals);
  const auto reader = stub.Generate(&call.context(), request);
  v1::GenerateResponse response;
  while (reader->Read(&response)) {
    if (response.has_started()) generated.started = response.started();
    if (response.has_finished()) generated.finished = response.finished();
    if (!response.has_delta()) continue;
    const auto& delta = response.delta();
    generated.text += delta.text();
    generated.token_ids.insert(generated.token_ids.end(), delta.token_ids().begin(),
                               delta.token_ids().end());
    generated.logprobs.insert(generated.logprobs.end(), delta.logprobs().begin(),
                              delta.logprobs().end());
    generated.top.insert(generated.top.end(), delta.top().begin(), delta.top().end());
    if (!globals.json) {
      fmt::print("{}", delta.text());
      if (std::fflush(stdout) != 0) call.cancel();  // main() tells why
    }
  }
  // Anything printed next, including an error, starts on its own line.
  if (!globals.json && !generated.text.ends_with('\n') && generated.started.prompt_tokens() > 0) {
    fmt::print("\n");
  }
  return call.result(reader->Finish());
}

Json logprobs_json(const Generated& generated) {
  Json top = Json::array();
  for (const auto& candidates : generated.top) top.push_back(candidates_json(candidates));
  return {{"token_ids", generated.token_ids},
          {"logprobs", generated.logprobs},
          {"top", std::move(top)}};
}

Json generated_json(const GenerateOptions& options, const Generated& generated) {
  const auto& finished = generated.finished;
  const auto& timings = finished.timings();
  Json out = {{"text", generated.text},
              {"finish_reason", name_of(finished.reason())},
              {"prompt_tokens", finished.prompt_tokens()},
              {"generated_tokens", finished.generated_tokens()},
              {"seed", generated.started.seed()},
              {"mode", name_of(generated.started.mode())}};
  if (finished.has_stop_string()) out["stop_string"] = finished.stop_string();
  if (finished.has_stop_token_id()) out["stop_token_id"] = finished.stop_token_id();
  if (options.logprobs) out.update(logprobs_json(generated));
  add_attention(finished.attention(), out);
  out["timings"] = {{"queue_seconds", timings.queue_seconds()},
                    {"prefill_seconds", timings.prefill_seconds()},
                    {"time_to_first_token_seconds", timings.time_to_first_token_seconds()},
                    {"decode_seconds", timings.decode_seconds()},
                    {"total_seconds", timings.total_seconds()}};
  return out;
}

std::string logprob_table(const Generated& generated) {
  Table table({{"Id"}, {"Log p (nats)"}, {"Most likely (id log p)", Table::Align::kLeft}});
  for (size_t i = 0; i < generated.logprobs.size() && i < generated.token_ids.size(); ++i) {
    std::vector<std::string> candidates;
    for (int k = 0; i < generated.top.size() && k < generated.top[i].token_ids_size(); ++k) {
      candidates.push_back(fmt::format("{} {}", generated.top[i].token_ids(k),
                                       fixed(generated.top[i].logprobs(k), 4)));
    }
    table.add({std::to_string(generated.token_ids[i]), fixed(generated.logprobs[i], 4),
               fmt::format("{}", fmt::join(candidates, ", "))});
  }
  return table.text();
}

std::string stats_text(const Generated& generated) {
  const auto& finished = generated.finished;
  const auto& timings = finished.timings();
  // The first token comes from the prefill, so it is not counted as decoded.
  const int decoded = finished.generated_tokens() - 1;
  std::string out =
      fmt::format("{} of prompt, first token after {:.3f} s; {} generated",
                  counted(finished.prompt_tokens(), "token"), timings.time_to_first_token_seconds(),
                  counted(finished.generated_tokens(), "token"));
  if (decoded > 0 && timings.decode_seconds() > 0) {
    out += fmt::format(", {:.1f} tokens/s", decoded / timings.decode_seconds());
  }
  return out + fmt::format(
                   "; ended by {}; {} attention, {} of the causal keys, {} of KV per token "
                   "(dense: {})\n",
                   name_of(finished.reason()), name_of(generated.started.mode()),
                   percent(finished.attention().keys_attended_ratio()),
                   bytes(finished.attention().kv_bytes_read_per_token()),
                   bytes(finished.attention().dense_kv_bytes_read_per_token()));
}

int run_generate(const Globals& globals, const GenerateOptions& options) {
  auto prompt = text_argument(options.prompt);
  if (!prompt.ok()) return fail(prompt.status());
  const v1::GenerateRequest request = request_of(options, *std::move(prompt));
  const auto channel = connect(globals);
  if (!channel.ok()) return fail(channel.status());
  const auto stub = v1::InferenceService::NewStub(*channel);
  Generated generated;
  const absl::Status status = read_stream(globals, *stub, request, generated);
  if (std::ferror(stdout) != 0) return kFailure;  // main() tells why
  if (!status.ok()) return fail(status);
  if (globals.json) {
    print_json(generated_json(options, generated));
  } else if (options.logprobs) {
    fmt::print("\n{}", logprob_table(generated));
  }
  std::fflush(stdout);  // so that the statistics follow the text on a terminal
  if (options.stats) fmt::print(stderr, "{}", stats_text(generated));
  return kSuccess;
}

// Validators for CLI11: each returns an error message, or "" if the value is valid.
std::string check_escapes(const std::string& text) {
  return std::string(without_escapes(text).status().message());
}
std::string check_seed(const std::string& text) {
  return text == kRandomSeed ? "" : unsigned_number(text);
}

std::string with_hyphens(std::string name) {
  std::replace(name.begin(), name.end(), '_', '-');
  return name;
}

// "auto" and the names of the chat formats, as --help lists them.
std::vector<std::string> chat_format_names() {
  std::vector<std::string> names = {"auto"};
  const auto& type = *v1::ChatFormat_descriptor();
  for (int i = 1; i < type.value_count(); ++i) {
    names.push_back(with_hyphens(short_name(type, type.value(i)->number())));
  }
  return names;
}

void add_chat_options(CLI::App& command, GenerateOptions& options) {
  CLI::Option* chat = command.add_flag("--chat", options.chat, "Answer the prompt as a chat");
  command.add_option("--system", options.system, "Instructions in front of the chat")->needs(chat);
  command.add_option("--chat-format", options.chat_format, "How the chat is written [auto]")
      ->check(CLI::IsMember(chat_format_names(), with_hyphens))
      ->needs(chat);
  // The server builds the tokens of a chat, so --no-bos does not apply.
  command.add_flag("--no-bos", options.no_bos, "Do not put the BOS token in front")->excludes(chat);
  command
      .add_flag("--parse-special", options.parse_special,
                "Special tokens' names in the prompt become those tokens")
      ->excludes(chat);
}

void add_sampling_options(CLI::App& command, GenerateOptions& options) {
  command.add_option("--temperature", options.temperature, "0 = most likely token [1]");
  command.add_option("--top-k", options.top_k, "Draw from so many tokens, 0 = all [0]");
  command.add_option("--top-p", options.top_p, "Draw from so much probability [1]");
  command.add_option("--min-p", options.min_p, "Drop tokens below this x the most likely [0]");
  command.add_option("--seed", options.seed, "Same seed, same text; -1 = a random one [-1]")
      ->type_name("N")
      ->check(check_seed);
  command.add_option("--repetition-penalty", options.repetition_penalty,
                     "For tokens of prompt and text [1]");
  command.add_option("--presence-penalty", options.presence_penalty, "For generated tokens [0]");
  command.add_option("--frequency-penalty", options.frequency_penalty,
                     "For generated tokens, each time [0]");
}

void add_stopping_options(CLI::App& command, GenerateOptions& options) {
  command.add_option("--max-tokens", options.max_tokens, "At most so many tokens [256]");
  command.add_option("--min-tokens", options.min_tokens, "No end token before so many [0]");
  // Each option takes one value; otherwise the first would consume the prompt after it.
  command
      .add_option("--stop", options.stops,
                  "Text that ends it; several times; \\n, \\t, \\xHH and \\uHHHH are escapes")
      ->check(check_escapes)
      ->allow_extra_args(false);
  command.add_option("--stop-token", options.stop_tokens, "Token id that ends it; several times")
      ->allow_extra_args(false);
  command.add_flag("--include-stop", options.include_stop, "Print what ended it, too");
  command.add_flag("--ignore-eos", options.ignore_eos, "Go on past the model's end tokens");
}

}  // namespace

void add_generate(CLI::App& app, const Globals& globals, Action& chosen) {
  CLI::App* command = app.add_subcommand("generate", "Continue a prompt");
  const auto options = std::make_shared<GenerateOptions>();
  command
      ->add_option("PROMPT", options->prompt,
                   "The text; - reads standard input, less one final newline")
      ->required();
  add_chat_options(*command, *options);
  add_sampling_options(*command, *options);
  add_stopping_options(*command, *options);
  add_attention_flags(*command, {"dense", "sparse"}, options->attention);
  command
      ->add_option("--window", options->attention.window,
                   "Baseline window: keys that a token attends to")
      ->needs("--baseline");
  command
      ->add_option("--logprobs", options->logprobs,
                   "Log-probabilities of the tokens, and of the N most likely ones")
      ->type_name("N")
      ->check(whole_number(0, 20));
  add_priority_flag(*command, "interactive", options->priority);
  command->add_flag("--stats", options->stats, "Figures on standard error at the end");
  command->callback([&, options] {
    check_baseline(options->attention);
    chosen = [&globals, options] { return run_generate(globals, *options); };
  });
}

}  // namespace kascade::client
