#include <fmt/format.h>
#include <fmt/ranges.h>

#include <CLI/CLI.hpp>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "client/commands/attention_flags.h"
#include "client/commands/commands.h"
#include "client/commands/option_names.h"
#include "client/commands/texts.h"
#include "client/commands/threshold.h"
#include "client/rpc/calibration_stream.h"
#include "client/rpc/failure.h"
#include "client/views/calibration_view.h"
#include "client/views/reports.h"
#include "kascade/v1/calibration_service.grpc.pb.h"
#include "kascade/v1/inference_service.grpc.pb.h"
#include "tools/terminal/print.h"

namespace kascade::client {
namespace {

// The values of the options as typed. Options that were not given are unset, so that the server's
// defaults and presets apply.
struct CalibrateOptions {
  std::vector<std::string> files{}, held_out{};
  TextFlags texts{};
  std::string select{}, maker{}, preset{};
  std::string anchors = "auto";
  std::string dense_layers{};
  std::string threshold{};
  std::optional<double> ratio{}, mass{}, max_ratio{}, min_recall{}, max_degradation{};
  std::optional<int32_t> min_keys{}, tile_size{}, top_k{}, max_reuse_dist{}, sink_keys{},
      dense_below{};
  std::optional<int32_t> window_tokens{};
  std::string pooling{}, plan_weight{};
  bool paper_decode = false;
  bool all_heads = false;
  std::string int4_keys{};
  bool published_head_map_slip = false;
  bool no_retrieval = false;
  bool no_activate = false;
  bool detach = false;
  bool fresh = false;
  std::string out{};
};

// Validators for CLI11: each returns an error message, or "" if the value is valid.
std::string check_layers(const std::string& text) {
  return text == "auto" || parse_layers(text) ? "" : "not auto and not a list like 0,3,5: " + text;
}
std::string check_anchors(const std::string& text) {
  const auto numbers = parse_layers(text);
  return text == "auto" || (numbers && numbers->size() == 1) ? "" : "not auto or a number: " + text;
}

void fill_numbers(const CalibrateOptions& options, v1::CalibrateRequest& request) {
  if (const auto anchors = parse_layers(options.anchors)) request.set_anchors(anchors->front());
  if (options.dense_layers == "auto") request.set_auto_dense_layers(true);
  if (const auto layers = parse_layers(options.dense_layers)) {
    request.mutable_dense_layers()->Add(layers->begin(), layers->end());
  }
  if (options.ratio) request.set_ratio(*options.ratio);
  if (options.mass) request.set_mass(*options.mass);
  if (options.max_ratio) request.set_max_ratio(*options.max_ratio);
  if (options.min_keys) request.set_min_keys(*options.min_keys);
  if (options.dense_below) request.set_dense_below(*options.dense_below);
  if (options.tile_size) request.set_tile_size(*options.tile_size);
  if (options.top_k) request.set_top_k(*options.top_k);
  set_threshold(options.threshold, request);
  if (options.max_reuse_dist) request.set_max_reuse_dist(*options.max_reuse_dist);
  if (options.sink_keys) request.set_sink_keys(*options.sink_keys);
  if (options.min_recall) request.set_min_recall(*options.min_recall);
  if (options.window_tokens) request.set_window_tokens(*options.window_tokens);
  if (options.max_degradation) request.set_max_degradation_percent(*options.max_degradation);
}

// The texts of a calibration.
struct CalibrateTexts {
  std::vector<NamedText> texts{};
  std::vector<NamedText> held_out{};
};

// One calibration is one request, so there is a limit.
absl::Status check_count(const std::vector<NamedText>& texts) {
  constexpr size_t kMostTexts = 65536;
  if (texts.size() <= kMostTexts) return absl::OkStatus();
  return absl::InvalidArgumentError(fmt::format("at most {} texts can be calibrated on, got {}",
                                                with_commas(kMostTexts),
                                                with_commas(static_cast<int64_t>(texts.size()))));
}

absl::StatusOr<CalibrateTexts> read_all_texts(const CalibrateOptions& options) {
  CalibrateTexts out;
  for (const auto& [files, texts] :
       {std::pair{&options.files, &out.texts}, {&options.held_out, &out.held_out}}) {
    auto read = read_texts_of_kinds(*files, options.texts);
    if (!read.ok()) return read.status();
    if (absl::Status status = check_count(*read); !status.ok()) return status;
    *texts = *std::move(read);
  }
  return out;
}

void fill_texts(const CalibrateOptions& options, const CalibrateTexts& texts,
                v1::CalibrateRequest& request) {
  for (const NamedText& text : texts.texts) {
    request.add_texts(text.text);
    request.add_kinds(text.kind);
  }
  for (const NamedText& text : texts.held_out) {
    request.add_held_out_texts(text.text);
    request.add_held_out_kinds(text.kind);
  }
  if (options.texts.lines) request.set_join_texts(true);
  if (options.texts.max_tokens_per_text) {
    request.set_max_tokens_per_text(*options.texts.max_tokens_per_text);
  }
}

v1::CalibrateRequest request_of(const CalibrateOptions& options, const CalibrateTexts& texts) {
  v1::CalibrateRequest request;
  fill_texts(options, texts, request);
  if (!options.select.empty()) {
    request.set_family(value_of<v1::SelectionFamily>(options.select));
  }
  if (!options.maker.empty()) request.set_maker(value_of<v1::ScheduleMaker>(options.maker));
  if (!options.preset.empty()) {
    request.set_preset(value_of<v1::CalibrationPreset>(options.preset));
  }
  if (options.paper_decode) request.set_decode_own_tile(false);
  if (!options.pooling.empty()) request.set_pooling(value_of<v1::ScorePooling>(options.pooling));
  if (options.all_heads) request.set_all_heads(true);
  if (!options.int4_keys.empty()) request.set_int4_keys(options.int4_keys == "on");
  if (!options.plan_weight.empty()) {
    request.set_plan_weight(value_of<v1::PlanWeight>(options.plan_weight));
  }
  if (options.published_head_map_slip) request.set_published_head_map_slip(true);
  if (options.no_retrieval) request.set_retrieval(false);
  if (options.no_activate) request.set_activate(false);
  if (options.fresh) request.set_fresh(true);
  fill_numbers(options, request);
  return request;
}

// Prints the model and its machine first, because a calibration is valid for these only.
absl::Status print_model(const Globals& globals, v1::InferenceService::Stub& stub) {
  const auto info =
      call(globals, stub, &v1::InferenceService::Stub::GetModelInfo, v1::GetModelInfoRequest());
  if (!info.ok()) return info.status();
  fmt::print("Model        {}: {}, {} and {}, context {}; backend {}, {}\n", info->model().name(),
             counted(info->model().layers(), "layer"), counted(info->model().heads(), "head"),
             counted(info->model().kv_heads(), "KV head"),
             counted(info->model().context_length(), "token"), info->runtime().backend(),
             counted(info->runtime().threads(), "thread"));
  std::fflush(stdout);
  return absl::OkStatus();
}

// Lists the settings of the request. Settings that are not listed are left to the server's defaults
// and the preset.
std::string options_text(const v1::CalibrateRequest& request) {
  std::vector<std::string> parts;
  const auto add = [&](bool set, const char* format, const auto&... values) {
    if (set) parts.push_back(fmt::format(fmt::runtime(format), values...));
  };
  add(request.preset() != 0, "preset {}", name_of(request.preset()));
  add(request.family() != 0, "family {}", name_of(request.family()));
  add(request.maker() != 0, "maker {}", name_of(request.maker()));
  add(request.has_ratio(), "ratio {}", percent(request.ratio()));
  add(request.has_mass(), "keys with {} of the attention", percent(request.mass()));
  add(request.has_max_ratio(), "at most {} of the keys", percent(request.max_ratio()));
  add(request.has_min_keys(), "at least {} keys", request.min_keys());
  add(request.has_dense_below(), "all keys below position {}", request.dense_below());
  add(request.has_tile_size(), "tiles of {}", request.tile_size());
  add(request.has_top_k(), "top-k {}", request.top_k());
  add(request.has_threshold(), "threshold {}", percent(request.threshold()));
  add(request.auto_threshold(), "threshold auto");
  add(request.has_max_reuse_dist(), "max reuse distance {}", request.max_reuse_dist());
  add(request.has_anchors(), "{} anchors", request.anchors());
  add(request.dense_layers_size() > 0, "dense layers {}", fmt::join(request.dense_layers(), ", "));
  add(request.auto_dense_layers(), "dense layers auto");
  add(request.has_window_tokens(), "windows of {} tokens", request.window_tokens());
  add(request.has_max_tokens_per_text(), "at most {} tokens of each text",
      request.max_tokens_per_text());
  add(request.join_texts(), "{} lines joined, those of a kind to one text", request.texts_size());
  add(request.has_min_recall(), "least recall {}", percent(request.min_recall()));
  add(request.has_max_degradation_percent(), "perplexity at most {} % worse",
      request.max_degradation_percent());
  add(request.has_retrieval(), "no pass keys");
  add(request.has_sink_keys(), "{} sink keys", request.sink_keys());
  add(request.has_pooling(), "pooling {}", name_of(request.pooling()));
  add(request.has_plan_weight(), "layers weighted by {}", name_of(request.plan_weight()));
  add(request.has_decode_own_tile(), "own tile not forced in decoding");
  add(request.all_heads(), "one choice for all heads");
  add(request.has_int4_keys(), "chosen by {}", request.int4_keys() ? "4-bit keys" : "exact keys");
  add(request.published_head_map_slip(), "head maps with the published mistake");
  if (parts.empty()) return "the server's defaults";
  return fmt::format("{}", fmt::join(parts, ", "));
}

// The server names fields of its API; a user knows options and files.
absl::Status in_words_of_options(const absl::Status& status, const CalibrateTexts& texts) {
  if (status.ok()) return status;
  absl::Status named = with_text_names(status, "texts", texts.texts);
  named = with_text_names(named, "held_out_texts", texts.held_out);
  return with_option_names(named);
}

int report_detached(const Globals& globals, const Followed& followed) {
  if (!followed.started) return fail(followed.status);
  const auto& started = *followed.started;
  if (globals.json) {
    print_json({{"calibration_id", started.calibration_id()},
                {"attached", started.attached()},
                {"tokens", started.tokens()},
                {"data_digest", started.data_digest()}});
  } else {
    fmt::print("{}\n", started.calibration_id());
    fmt::print(stderr, "The calibration goes on: kascade watch {} follows it.\n",
               started.calibration_id());
  }
  return kSuccess;
}

int run_calibrate(const Globals& globals, const CalibrateOptions& options) {
  const auto texts = read_all_texts(options);
  if (!texts.ok()) return fail(texts.status());
  const v1::CalibrateRequest request = request_of(options, *texts);
  auto out = ResultFile::open(options.out);
  if (!out.ok()) return fail(out.status());
  const auto channel = connect(globals);
  if (!channel.ok()) return fail(channel.status());
  if (!globals.json && !options.detach) {
    const auto inference = v1::InferenceService::NewStub(*channel);
    if (const auto status = print_model(globals, *inference); !status.ok()) return fail(status);
    fmt::print("Options      {}\n", options_text(request));
  }
  const auto stub = v1::CalibrationService::NewStub(*channel);
  Call call(globals);
  const auto reader = stub->Calibrate(&call.context(), request);
  Followed followed = follow<v1::CalibrateResponse>(globals, call, *reader, options.detach);
  followed.status = in_words_of_options(followed.status, *texts);
  if (options.detach) return report_detached(globals, followed);
  return report_calibration(globals, followed, *out);
}

void add_experiments(CLI::App& command, CalibrateOptions& options) {
  command.add_flag("--paper-decode", options.paper_decode,
                   "kascade: do not force the own tile in decoding");
  command
      .add_option("--pooling", options.pooling,
                  "kascade: a key's score is the sum or the largest of its probabilities [sum]")
      ->check(CLI::IsMember({"sum", "max"}));
  command
      .add_option("--plan-weight", options.plan_weight,
                  "dp: layers count by the importance of their attention, as published, or by what "
                  "their reuse costs, measured (some 2,048 tokens more per layer) [loss]")
      ->check(CLI::IsMember({"importance", "loss"}));
  command.add_flag("--all-heads", options.all_heads, "kascade: one choice for all KV heads");
  command
      .add_option("--int4-keys", options.int4_keys,
                  "Choose keys by their 4-bit copy, which takes a quarter of the bytes to read "
                  "[off; with --maker mass on]")
      ->check(CLI::IsMember({"on", "off"}));
  command.add_flag("--published-head-map-slip", options.published_head_map_slip,
                   "dp: head maps with the published code's mistake, to measure what it costs");
}

// What decides about the kind of schedule.
void add_kind_options(CLI::App& command, CalibrateOptions& options) {
  command
      .add_option("--select", options.select,
                  "What a selection picks: single keys, or tiles of keys [kascade; tile with "
                  "--top-k, or with an option of greedy]")
      ->check(CLI::IsMember({"kascade", "tile"}));
  command
      .add_option(
          "--maker", options.maker,
          "The planner [kascade: dp, tile: greedy; or whose options are given]; with mass "
          "every layer selects for itself, by the least --mass that passes if none is given")
      ->check(CLI::IsMember({"dp", "greedy", "mass"}));
  command
      .add_option("--preset", options.preset,
                  "Named options of tile and greedy, listed below; an option given beside it wins")
      ->check(CLI::IsMember(
          {"balanced", "conservative", "aggressive", "large-model", "cpu-8b", "long"}));
}

void add_method_options(CLI::App& command, CalibrateOptions& options) {
  command
      .add_option("--anchors", options.anchors,
                  "dp: number of selecting layers, layer 0 counted; auto: what reads least of "
                  "those that pass, with more dense layers where that pays")
      ->type_name("auto|N")
      ->check(check_anchors)
      ->capture_default_str();
  command.add_option("--ratio", options.ratio, "kascade: share of the keys to choose [0.1]");
  command.add_option("--mass", options.mass,
                     "kascade, in place of --ratio: choose as many keys as it takes to attend to "
                     "this share of the attention, 0 to 1");
  command.add_option("--max-ratio", options.max_ratio,
                     "With --mass: choose at most this share of the keys [1]");
  command.add_option("--min-keys", options.min_keys, "kascade: choose at least so many [128]");
  command.add_option("--dense-below", options.dense_below,
                     "Attend to all keys below this position, 0: nowhere [mass: where sparse "
                     "attention takes longer, measured; else 0]");
  command.add_option("--tile-size", options.tile_size,
                     "Tokens of a tile: 16, 32, 64, 128 [kascade: 32, tile: 16]");
  command.add_option("--top-k", options.top_k, "tile: key tiles to choose [12]");
  command
      .add_option("--threshold", options.threshold,
                  "greedy: least similarity of a reuse layer, 0 to 1; auto: 0.9 × the median "
                  "similarity of neighbouring layers [0.65]")
      ->type_name("X|auto")
      ->check(check_threshold);
  command.add_option("--max-reuse-dist", options.max_reuse_dist,
                     "greedy: reuse at most this - 1 layers after the anchor [4]");
  command
      .add_option("--dense-layers", options.dense_layers,
                  "Layers that stay dense besides layer 0, or auto: where keys are too many")
      ->type_name("LIST|auto")
      ->check(check_layers);
  command.add_option("--min-recall", options.min_recall,
                     "With --dense-layers auto: recall below which a layer stays dense [0.6]");
  command.add_option("--sink-keys", options.sink_keys,
                     "kascade: first keys that are always attended to [0]");
  add_experiments(command, options);
}

}  // namespace

void add_calibrate(CLI::App& app, const Globals& globals, Action& chosen) {
  CLI::App* command = app.add_subcommand("calibrate", "Make a schedule from texts");
  const auto options = std::make_shared<CalibrateOptions>();
  command
      ->add_option(
          "FILE", options->files,
          "UTF-8 texts like those to be served; KIND=FILE names the kind of text, which the "
          "quality check compares on its own [the file's name]")
      ->required();
  add_text_flags(*command, options->texts);
  command
      ->add_option("--held-out", options->held_out,
                   "Texts for the quality check, FILE or KIND=FILE [the end of each FILE]")
      ->type_name("FILE");
  command->footer("Presets:\n" + presets_text());
  add_kind_options(*command, *options);
  add_method_options(*command, *options);
  command->add_option(
      "--max-degradation", options->max_degradation,
      "Quality check: most allowed rise of held-out perplexity, with its standard error, in each "
      "kind of text, percent [1]");
  command->add_flag("--no-retrieval", options->no_retrieval,
                    "Quality check: do not ask for pass keys hidden in held-out text");
  command->add_option("--window,--window-tokens", options->window_tokens,
                      "Tokens of a window [2048, or the preset's; with --maker mass up to 8192 in "
                      "the quality check, as far as the texts allow]");
  command->add_option("--out", options->out, "Also write the schedule to this file");
  command->add_flag("--no-activate", options->no_activate,
                    "Do not activate a schedule that passed");
  command->add_flag("--fresh", options->fresh,
                    "Calibrate anew although the same calibration has ended");
  command->add_flag("--detach", options->detach, "Print the id and leave the server to it");
  command->callback(
      [&, options] { chosen = [&globals, options] { return run_calibrate(globals, *options); }; });
}

}  // namespace kascade::client
