#include "client/commands/attention_flags.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <utility>

#include "client/views/reports.h"

namespace kascade::client {
namespace {

const std::vector<std::string> kBaselines{"oracle", "streaming", "quest", "window", "chunk"};

// Validators for CLI11: each returns an error message, or "" if the value is valid.
std::string check_layers(const std::string& text) {
  return text == "none" || parse_layers(text) ? "" : "not none and not a list like 0,1: " + text;
}

v1::AttentionBaseline baseline_of(const AttentionFlags& flags) {
  v1::AttentionBaseline baseline;
  baseline.set_kind(value_of<v1::BaselineKind>(flags.baseline));
  if (flags.ratio) baseline.set_ratio(*flags.ratio);
  if (flags.min_keys) baseline.set_min_keys(*flags.min_keys);
  if (flags.sink_keys) baseline.set_sink_keys(*flags.sink_keys);
  if (flags.page_size) baseline.set_page_size(*flags.page_size);
  if (flags.window) baseline.set_window(*flags.window);
  if (flags.chunk) baseline.set_chunk(*flags.chunk);
  if (!flags.dense_layers.empty()) {
    auto& layers = *baseline.mutable_dense_layers()->mutable_layers();
    if (const auto listed = parse_layers(flags.dense_layers)) {
      layers.Add(listed->begin(), listed->end());
    }
  }
  return baseline;
}

std::string check_choice(const std::string& text) {
  return std::string(parse_choice(text).status().message());
}

// One setting "name=value" that follows a choice.
struct Setting {
  std::string name{}, value{};
};

template <typename Number>
absl::StatusOr<Number> number_of(const Setting& setting) {
  Number number{};
  const char* end = setting.value.data() + setting.value.size();
  const auto [next, error] = std::from_chars(setting.value.data(), end, number);
  if (error == std::errc() && next == end && !setting.value.empty()) return number;
  return absl::InvalidArgumentError(
      fmt::format("{}: not a number: {}", setting.name, setting.value));
}

absl::Status unknown_setting(const Setting& setting, const std::string& choice) {
  return absl::InvalidArgumentError(fmt::format("{} is no setting of {}", setting.name, choice));
}

// Parses "0+1" or "none".
absl::Status set_dense_layers(const Setting& setting, v1::AttentionBaseline& out) {
  auto& layers = *out.mutable_dense_layers()->mutable_layers();
  if (setting.value == "none") return absl::OkStatus();
  std::string list = setting.value;
  std::ranges::replace(list, '+', ',');
  const auto listed = parse_layers(list);
  if (!listed) {
    return absl::InvalidArgumentError("dense_layers: not none and not a list like 0+1: " +
                                      setting.value);
  }
  layers.Add(listed->begin(), listed->end());
  return absl::OkStatus();
}

absl::Status set(const Setting& setting, v1::AttentionBaseline& out) {
  if (setting.name == "dense_layers") return set_dense_layers(setting, out);
  if (setting.name == "ratio") {
    const auto ratio = number_of<double>(setting);
    if (ratio.ok()) out.set_ratio(*ratio);
    return ratio.status();
  }
  const auto keys = number_of<int32_t>(setting);
  if (!keys.ok()) return keys.status();
  if (setting.name == "min_keys") {
    out.set_min_keys(*keys);
  } else if (setting.name == "sink_keys") {
    out.set_sink_keys(*keys);
  } else if (setting.name == "page_size") {
    out.set_page_size(*keys);
  } else if (setting.name == "window") {
    out.set_window(*keys);
  } else if (setting.name == "chunk") {
    out.set_chunk(*keys);
  } else {
    return unknown_setting(setting, "a baseline");
  }
  return absl::OkStatus();
}

absl::Status set(const Setting& setting, v1::ScheduleAttention& out) {
  if (setting.name == "dense_below") {
    const auto positions = number_of<int32_t>(setting);
    if (positions.ok()) out.set_dense_below(*positions);
    return positions.status();
  }
  if (setting.name != "ratio") return unknown_setting(setting, "a schedule");
  const auto ratio = number_of<double>(setting);
  if (ratio.ok()) out.set_ratio(*ratio);
  return ratio.status();
}

// Splits `text` at commas; the first part is the choice itself.
std::vector<std::string> split(const std::string& text) {
  std::vector<std::string> parts;
  size_t begin = 0;
  while (true) {
    const size_t end = text.find(',', begin);
    parts.push_back(text.substr(begin, end - begin));
    if (end == std::string::npos) return parts;
    begin = end + 1;
  }
}

// The setting that the kind has no default for, if it is not set; else null.
const char* missing_setting(const v1::AttentionBaseline& baseline) {
  const bool window = baseline.kind() == v1::BASELINE_KIND_WINDOW;
  const bool chunk = baseline.kind() == v1::BASELINE_KIND_CHUNK;
  if (window && !baseline.has_window()) return "window";
  return chunk && !baseline.has_chunk() ? "chunk" : nullptr;
}

absl::StatusOr<v1::AttentionChoice> choice_named(const std::string& name) {
  constexpr std::string_view kById = "schedule:";
  v1::AttentionChoice out;
  if (name == "dense") {
    out.mutable_dense();
  } else if (name == "schedule") {
    out.mutable_schedule();
  } else if (name.starts_with(kById) && name.size() > kById.size()) {
    out.mutable_schedule()->set_schedule_id(name.substr(kById.size()));
  } else if (std::ranges::find(kBaselines, name) != kBaselines.end()) {
    out.mutable_baseline()->set_kind(value_of<v1::BaselineKind>(name));
  } else {
    return absl::InvalidArgumentError(
        "must begin with dense, schedule, schedule:ID, oracle, streaming, quest, window or "
        "chunk: " +
        name);
  }
  return out;
}

}  // namespace

absl::StatusOr<v1::AttentionChoice> parse_choice(const std::string& text) {
  const std::vector<std::string> parts = split(text);
  auto out = choice_named(parts.front());
  for (size_t i = 1; out.ok() && i < parts.size(); ++i) {
    const size_t equals = std::min(parts[i].find('='), parts[i].size());
    const Setting setting{parts[i].substr(0, equals),
                          parts[i].substr(std::min(equals + 1, parts[i].size()))};
    absl::Status status = out->has_schedule()   ? set(setting, *out->mutable_schedule())
                          : out->has_baseline() ? set(setting, *out->mutable_baseline())
                                                : unknown_setting(setting, "dense");
    if (!status.ok()) return status;
  }
  if (!out.ok()) return out;
  if (const char* missing = missing_setting(out->baseline())) {
    return absl::InvalidArgumentError(fmt::format("needs a number: {},{}=N", missing, missing));
  }
  return out;
}

void check_baseline(const AttentionFlags& flags) {
  if (flags.baseline.empty()) return;
  if (const char* missing = missing_setting(baseline_of(flags))) {
    throw CLI::ValidationError("--baseline",
                               fmt::format("{} needs --{} N", flags.baseline, missing));
  }
}

void add_comparison_flags(CLI::App& command, AttentionFlags& flags) {
  for (const auto& [name, text, standard] :
       {std::tuple{"--first", &flags.first, "dense"},
        std::tuple{"--second", &flags.second, "--baseline, or the active schedule"}}) {
    command
        .add_option(name, *text,
                    fmt::format("Compare: what this run attends to: dense, schedule, schedule:ID, "
                                "oracle, streaming, quest, window or chunk, with settings as in "
                                "quest,ratio=0.2,min_keys=64 [{}]",
                                standard))
        ->type_name("CHOICE")
        ->check(check_choice);
  }
}

void add_attention_flags(CLI::App& command, const std::vector<std::string>& modes,
                         AttentionFlags& flags) {
  command
      .add_option("--mode", flags.mode, "Attention [sparse with --baseline or an active schedule]")
      ->check(CLI::IsMember(modes));
  command.add_option(
      "--ratio", flags.ratio,
      "Share of the keys to choose [the schedule's; of oracle, streaming and quest 0.1]");
  CLI::Option* dense_below =
      command.add_option("--dense-below", flags.dense_below,
                         "Attend to all keys below this position, 0: nowhere [the schedule's]");
  CLI::Option* baseline =
      command
          .add_option(
              "--baseline", flags.baseline,
              "Sparse by this in place of a schedule: each layer's own best keys, the first and "
              "newest keys, pages by bounds, the --window N newest keys, or the keys of the own "
              "--chunk of N tokens")
          ->check(CLI::IsMember(kBaselines))
          ->excludes(dense_below);
  command.add_option("--min-keys", flags.min_keys, "Baseline: attend to at least so many [128]")
      ->needs(baseline);
  command
      .add_option("--sink-keys", flags.sink_keys,
                  "Baseline: first keys always attended to [oracle: 0, streaming: 4]")
      ->needs(baseline);
  command.add_option("--page-size", flags.page_size, "Baseline quest: keys of a page [16]")
      ->needs(baseline);
  command.add_option("--chunk", flags.chunk, "Baseline chunk: tokens of a chunk")->needs(baseline);
  command
      .add_option("--dense-layers", flags.dense_layers,
                  "Baseline: layers that attend to all keys, or none [0; quest: 0,1; window and "
                  "chunk: none]")
      ->type_name("LIST|none")
      ->check(check_layers)
      ->needs(baseline);
}

std::optional<v1::AttentionOptions> attention_of(const AttentionFlags& flags) {
  v1::AttentionOptions attention;
  if (!flags.mode.empty()) attention.set_mode(value_of<v1::AttentionMode>(flags.mode));
  if (!flags.baseline.empty()) {
    *attention.mutable_baseline() = baseline_of(flags);
  } else if (flags.ratio) {
    attention.set_ratio(*flags.ratio);
  }
  if (flags.dense_below) attention.set_dense_below(*flags.dense_below);
  for (const auto& [text, choice] :
       {std::pair{&flags.first, &v1::AttentionOptions::mutable_first},
        std::pair{&flags.second, &v1::AttentionOptions::mutable_second}}) {
    if (text->empty()) continue;
    if (flags.mode.empty()) attention.set_mode(v1::ATTENTION_MODE_COMPARE);
    if (const auto parsed = parse_choice(*text); parsed.ok()) *(attention.*choice)() = *parsed;
  }
  const bool given = attention.has_mode() || attention.has_ratio() || attention.has_baseline() ||
                     attention.has_dense_below();
  return given ? std::optional(attention) : std::nullopt;
}

std::string source_of(const v1::AttentionReport& report) {
  if (report.has_baseline()) return "baseline " + name_of(report.baseline().kind());
  return report.schedule_id().empty() ? "" : "schedule " + report.schedule_id();
}

std::string text_of(const v1::AttentionChoice& choice) {
  if (choice.has_baseline()) return "baseline " + name_of(choice.baseline().kind());
  if (!choice.has_schedule()) return "dense";
  std::string out = "schedule " + choice.schedule().schedule_id();
  if (choice.schedule().has_ratio()) {
    out += fmt::format(" with ratio {:g}", choice.schedule().ratio());
  }
  if (choice.schedule().dense_below() > 0) {
    out += fmt::format(", dense below position {}", choice.schedule().dense_below());
  }
  return out;
}

std::optional<std::vector<int32_t>> parse_layers(const std::string& list) {
  std::vector<int32_t> layers;
  const char* at = list.data();
  const char* end = at + list.size();
  while (true) {
    int32_t layer = 0;
    const auto [next, error] = std::from_chars(at, end, layer);
    if (error != std::errc() || (next != end && *next != ',')) return std::nullopt;
    layers.push_back(layer);
    if (next == end) return layers;
    at = next + 1;
  }
}

}  // namespace kascade::client
