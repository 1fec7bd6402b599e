// The options by which a command says how to attend, and what a report says was used.
#ifndef KASCADE_CLIENT_COMMANDS_ATTENTION_FLAGS_H_
#define KASCADE_CLIENT_COMMANDS_ATTENTION_FLAGS_H_

#include <CLI/CLI.hpp>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "kascade/v1/attention.pb.h"

namespace kascade::client {

// As typed; what is not given stays unset.
struct AttentionFlags {
  std::string mode{}, baseline{}, dense_layers{};
  std::optional<double> ratio{};
  std::optional<int32_t> min_keys{}, sink_keys{}, page_size{};
};

// `modes`: those that the command may ask for. `flags` must outlive the command.
void add_attention_flags(CLI::App& command, const std::vector<std::string>& modes,
                         AttentionFlags& flags);
// Unset when nothing was given.
std::optional<v1::AttentionOptions> attention_of(const AttentionFlags& flags);

// "schedule 0ab1…", or "baseline quest"; empty when dense.
std::string source_of(const v1::AttentionReport& report);

// "3,5,9", every part a number.
std::optional<std::vector<int32_t>> parse_layers(const std::string& list);

}  // namespace kascade::client

#endif  // KASCADE_CLIENT_COMMANDS_ATTENTION_FLAGS_H_
