// The options by which a command says how to attend, and what a report says was used.
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

// As typed; what is not given stays unset.
struct AttentionFlags {
  std::string mode{}, baseline{}, dense_layers{};
  std::string first{}, second{};  // of a comparison, see parse_choice
  std::optional<double> ratio{};
  std::optional<int32_t> min_keys{}, sink_keys{}, page_size{};
};

// `modes`: those that the command may ask for. `flags` must outlive the command.
void add_attention_flags(CLI::App& command, const std::vector<std::string>& modes,
                         AttentionFlags& flags);
// Adds --first and --second, which name the two runs of a comparison.
void add_comparison_flags(CLI::App& command, AttentionFlags& flags);
// Unset when nothing was given. --first or --second without --mode asks for a comparison.
std::optional<v1::AttentionOptions> attention_of(const AttentionFlags& flags);

// "dense", "schedule" (the active one), "schedule:ID", "oracle", "streaming" or "quest", each but
// dense with settings behind commas, as in "schedule:0ab1,ratio=0.2" or
// "quest,ratio=0.2,min_keys=64,page_size=8,dense_layers=0+1". INVALID_ARGUMENT says what is wrong.
absl::StatusOr<v1::AttentionChoice> parse_choice(const std::string& text);

// "schedule 0ab1…", or "baseline quest"; empty when dense.
std::string source_of(const v1::AttentionReport& report);
// The same, with "dense" for dense attention.
std::string text_of(const v1::AttentionChoice& choice);

// "3,5,9", every part a number.
std::optional<std::vector<int32_t>> parse_layers(const std::string& list);

}  // namespace kascade::client

#endif  // KASCADE_CLIENT_COMMANDS_ATTENTION_FLAGS_H_
