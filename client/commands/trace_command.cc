#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "client/commands/attention_flags.h"
#include "client/commands/commands.h"
#include "client/commands/files.h"
#include "client/rpc/failure.h"
#include "client/views/trace_svg.h"
#include "client/views/trace_view.h"
#include "kascade/v1/inference_service.grpc.pb.h"
#include "tools/terminal/progress.h"

namespace kascade::client {
namespace {

constexpr int kShown = 12;  // tiles or runs of keys of a head

struct TraceCommandOptions {
  std::string file{}, phase{}, schedule{}, attention{}, layers{}, heads{}, svg{};
  std::optional<double> ratio{};
  std::optional<int32_t> position{};
  int most = kShown;
  bool map = false;
  bool no_bos = false;
  bool parse_special = false;
};

v1::AttentionChoice choice_of(const TraceCommandOptions& options) {
  if (!options.attention.empty()) {
    return parse_choice(options.attention).value_or(v1::AttentionChoice{});
  }
  v1::AttentionChoice out;
  if (!options.schedule.empty()) out.mutable_schedule()->set_schedule_id(options.schedule);
  if (options.ratio) out.mutable_schedule()->set_ratio(*options.ratio);
  return out;
}

v1::TraceRequest request_of(const TraceCommandOptions& options, std::string text) {
  v1::TraceRequest request;
  request.set_text(std::move(text));
  if (options.no_bos) request.set_add_bos(false);
  if (options.parse_special) request.set_parse_special_tokens(true);
  const v1::AttentionChoice choice = choice_of(options);
  if (choice.choice_case() != v1::AttentionChoice::CHOICE_NOT_SET) {
    *request.mutable_attention() = choice;
  }
  if (!options.phase.empty()) request.set_phase(value_of<v1::SelectionPhase>(options.phase));
  if (options.position) request.set_position(*options.position);
  for (const auto& [list, field] : {std::pair{&options.layers, request.mutable_layers()},
                                    std::pair{&options.heads, request.mutable_kv_heads()}}) {
    if (list->empty()) continue;
    const auto numbers = parse_layers(*list);
    if (numbers) field->Add(numbers->begin(), numbers->end());
  }
  if (options.map || !options.svg.empty()) request.set_map(true);
  return request;
}

absl::Status read_trace(const Globals& globals, v1::InferenceService::Stub& stub,
                        const v1::TraceRequest& request, TraceRun& run) {
  Call call(globals);
  const auto reader = stub.Trace(&call.context(), request);
  ProgressDisplay display;
  v1::TraceResponse response;
  while (reader->Read(&response)) {
    if (response.has_started()) run.started = response.started();
    if (response.has_progress()) {
      display.show({.stage = "tracing",
                    .done = response.progress().tokens_done(),
                    .total = response.progress().tokens_total()});
    }
    if (response.has_layer()) add_layer(std::move(*response.mutable_layer()), run);
    if (response.has_map()) add_map(std::move(*response.mutable_map()), run);
    if (response.has_finished()) run.finished = response.finished();
  }
  return call.result(reader->Finish());
}

int run_trace(const Globals& globals, const TraceCommandOptions& options) {
  auto text = read_text(options.file);
  if (!text.ok()) return fail(text.status());
  auto picture = ResultFile::open(options.svg);
  if (!picture.ok()) return fail(picture.status());
  const v1::TraceRequest request = request_of(options, *std::move(text));
  const auto channel = connect(globals);
  if (!channel.ok()) return fail(channel.status());
  const auto stub = v1::InferenceService::NewStub(*channel);
  TraceRun run{.file = options.file};
  absl::Status status = read_trace(globals, *stub, request, run);
  if (status.ok() && !options.svg.empty()) status = picture->commit(trace_svg(run));
  if (!status.ok()) return fail(status);
  if (globals.json) {
    print_json(trace_json(run, options.map));
  } else {
    fmt::print("{}", trace_text(run, options.most));
    if (!options.svg.empty()) fmt::print("\nMap        {}\n", options.svg);
  }
  return kSuccess;
}

std::string check_list(const std::string& text) {
  return parse_layers(text) ? "" : "not a list like 0,1: " + text;
}

void add_what_to_trace(CLI::App& command, TraceCommandOptions& options) {
  command.add_option("--position", options.position,
                     "The query, counted from 0 with the BOS [the last token]");
  command
      .add_option("--phase", options.phase,
                  "row: the query selects alone, as in decoding; tile: its query tile selects "
                  "together, as in prefill [row]")
      ->check(CLI::IsMember({"row", "tile"}));
  CLI::Option* schedule =
      command.add_option("--schedule", options.schedule, "A schedule by its id [the active one]")
          ->type_name("ID");
  CLI::Option* ratio =
      command.add_option("--ratio", options.ratio, "Share of the keys to choose [the schedule's]");
  command
      .add_option("--attention", options.attention,
                  "Another way to attend, as --first of score takes it: dense, oracle, quest,"
                  "ratio=0.2, window,window=128 …")
      ->type_name("CHOICE")
      ->check([](const std::string& text) {
        return std::string(parse_choice(text).status().message());
      })
      ->excludes(schedule)
      ->excludes(ratio);
}

void add_what_to_show(CLI::App& command, TraceCommandOptions& options) {
  command.add_option("--layers", options.layers, "Layers to tell of [all]")
      ->type_name("LIST")
      ->check(check_list);
  command.add_option("--heads", options.heads, "KV heads to tell of [all]")
      ->type_name("LIST")
      ->check(check_list);
  command
      .add_option("--most", options.most,
                  "Print so many selected tiles, or runs of keys, of a head; 0 = all")
      ->check(CLI::Range(0, 1 << 20))
      ->capture_default_str();
  command
      .add_option("--svg", options.svg,
                  "Also draw which key tiles every query tile attends to, as a picture")
      ->type_name("FILE");
  command.add_flag("--map", options.map, "With --json: also the figures of that picture");
}

}  // namespace

void add_trace(CLI::App& app, const Globals& globals, Action& chosen) {
  CLI::App* command =
      app.add_subcommand("trace", "Which keys a query of a text attends to, layer by layer");
  const auto options = std::make_shared<TraceCommandOptions>();
  command->add_option("FILE", options->file, "UTF-8 text; - is standard input")->required();
  add_what_to_trace(*command, *options);
  add_what_to_show(*command, *options);
  command->add_flag("--no-bos", options->no_bos, "Do not put the BOS token in front");
  command->add_flag("--parse-special", options->parse_special,
                    "Special tokens' names in the text become those tokens");
  command->callback(
      [&, options] { chosen = [&globals, options] { return run_trace(globals, *options); }; });
}

}  // namespace kascade::client
