#include "client/commands/attention_flags.h"

#include <charconv>

#include "client/views/reports.h"

namespace kascade::client {
namespace {

// CLI11's validators: a message for what is wrong.
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
  if (!flags.dense_layers.empty()) {
    auto& layers = *baseline.mutable_dense_layers()->mutable_layers();
    if (const auto listed = parse_layers(flags.dense_layers)) {
      layers.Add(listed->begin(), listed->end());
    }
  }
  return baseline;
}

}  // namespace

void add_attention_flags(CLI::App& command, const std::vector<std::string>& modes,
                         AttentionFlags& flags) {
  command
      .add_option("--mode", flags.mode, "Attention [sparse with --baseline or an active schedule]")
      ->check(CLI::IsMember(modes));
  command.add_option("--ratio", flags.ratio,
                     "Share of the keys to choose [the schedule's; of a baseline 0.1]");
  CLI::Option* baseline =
      command
          .add_option(
              "--baseline", flags.baseline,
              "Sparse by this in place of a schedule: each layer's own best keys, the first "
              "and newest keys, or pages by bounds")
          ->check(CLI::IsMember({"oracle", "streaming", "quest"}));
  command.add_option("--min-keys", flags.min_keys, "Baseline: attend to at least so many [128]")
      ->needs(baseline);
  command
      .add_option("--sink-keys", flags.sink_keys,
                  "Baseline: first keys always attended to [oracle: 0, streaming: 4]")
      ->needs(baseline);
  command.add_option("--page-size", flags.page_size, "Baseline quest: keys of a page [16]")
      ->needs(baseline);
  command
      .add_option("--dense-layers", flags.dense_layers,
                  "Baseline: layers that attend to all keys, or none [0; quest: 0,1]")
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
  const bool given = attention.has_mode() || attention.has_ratio() || attention.has_baseline();
  return given ? std::optional(attention) : std::nullopt;
}

std::string source_of(const v1::AttentionReport& report) {
  if (report.has_baseline()) return "baseline " + name_of(report.baseline().kind());
  return report.schedule_id().empty() ? "" : "schedule " + report.schedule_id();
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
