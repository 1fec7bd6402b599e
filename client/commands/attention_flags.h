// The command-line options that select an attention method, and the text by which a report says
// which one was used.
#ifndef KASCADE_CLIENT_COMMANDS_ATTENTION_FLAGS_H_
#define KASCADE_CLIENT_COMMANDS_ATTENTION_FLAGS_H_

#include <CLI/CLI.hpp>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "kascade/v1/attention.pb.h"

namespace kascade::client {

// The values of the options as typed; options that were not given are unset.
struct AttentionFlags {
  std::string mode{}, baseline{}, dense_layers{};
  std::string first{}, second{};  // the two runs of a comparison, see parse_choice
  std::optional<double> ratio{};
  std::optional<int32_t> dense_below{};
  std::optional<int32_t> min_keys{}, sink_keys{}, page_size{}, window{}, chunk{};
};

// Adds the options to `command`, but for --window, which some commands have for something else.
// `modes` lists the values that the command accepts for --mode. `flags` must outlive the command.
void add_attention_flags(CLI::App& command, const std::vector<std::string>& modes,
                         AttentionFlags& flags);
// Adds --first and --second, which name the two runs of a comparison.
void add_comparison_flags(CLI::App& command, AttentionFlags& flags);
// Throws CLI11's error of wrong usage if the baseline lacks a setting that has no default. To be
// called when all options were parsed.
void check_baseline(const AttentionFlags& flags);
// Builds the request's attention options; unset if no option was given. --first or --second without
// --mode requests a comparison.
std::optional<v1::AttentionOptions> attention_of(const AttentionFlags& flags);

// Parses one way to attend: "dense", "schedule" (the active one), "schedule:ID", "oracle",
// "streaming", "quest", "window" or "chunk". All but "dense" accept settings after commas, as in
// "schedule:0ab1,ratio=0.2", "quest,ratio=0.2,min_keys=64,page_size=8,dense_layers=0+1" or
// "window,window=128". INVALID_ARGUMENT says what is wrong.
absl::StatusOr<v1::AttentionChoice> parse_choice(const std::string& text);

// Returns what selected the keys, "schedule 0ab1…" or "baseline quest"; empty for dense attention.
std::string source_of(const v1::AttentionReport& report);
// Describes `choice` in the same form, with "dense" for dense attention.
std::string text_of(const v1::AttentionChoice& choice);

// Parses a list of numbers such as "3,5,9"; nullopt if any part is not a number.
std::optional<std::vector<int32_t>> parse_layers(const std::string& list);

}  // namespace kascade::client

#endif  // KASCADE_CLIENT_COMMANDS_ATTENTION_FLAGS_H_
