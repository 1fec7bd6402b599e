#include "client/commands/option_names.h"

#include <string>
#include <string_view>
#include <utility>

namespace kascade::client {
namespace {

// A field, or a value as a message spells it → the option. Longer names come before their parts.
constexpr std::pair<std::string_view, std::string_view> kNames[] = {
    {"held_out_texts", "--held-out"},
    {"held_out_kinds", "KIND of --held-out"},
    {"kinds", "KIND"},
    {"max_tokens_per_text", "--max-tokens-per-text"},
    {"texts", "FILE"},
    {"auto_dense_layers", "--dense-layers auto"},
    {"dense_layers", "--dense-layers"},
    {"auto_threshold", "--threshold auto"},
    {"threshold", "--threshold"},
    {"max_degradation_percent", "--max-degradation"},
    {"decode_own_tile", "--paper-decode"},
    {"published_head_map_slip", "--published-head-map-slip"},
    {"plan_weight", "--plan-weight"},
    {"max_reuse_dist", "--max-reuse-dist"},
    {"window_tokens", "--window-tokens"},
    {"min_recall", "--min-recall"},
    {"min_keys", "--min-keys"},
    {"sink_keys", "--sink-keys"},
    {"tile_size", "--tile-size"},
    {"all_heads", "--all-heads"},
    {"int4_keys", "--int4-keys"},
    {"dense_below", "--dense-below"},
    {"top_k", "--top-k"},
    {"anchors", "--anchors"},
    {"pooling", "--pooling"},
    {"preset", "--preset"},
    {"max_ratio", "--max-ratio"},
    {"ratio", "--ratio"},
    {"mass", "--mass"},
    {"family is KASCADE", "--select is kascade"},
    {"family is TILE", "--select is tile"},
    {"family KASCADE", "--select kascade"},
    {"family TILE", "--select tile"},
    {"maker is GREEDY", "--maker is greedy"},
    {"maker is DP", "--maker is dp"},
    {"maker GREEDY", "--maker greedy"},
    {"maker DP", "--maker dp"},
};

// Whether a name at this place of a message is meant as one: the field that the message begins
// with, or a name after "as ". Words with an underscore or a capital are names anywhere.
bool is_name(std::string_view name, std::string_view message, size_t at) {
  if (name.find('_') != std::string_view::npos || name.find(' ') != std::string_view::npos) {
    return true;
  }
  const std::string_view rest = message.substr(at + name.size());
  if (at == 0) return rest.starts_with(": ") || rest.starts_with("[");
  return message.substr(0, at).ends_with(", as ") && rest.starts_with(" asks");
}

}  // namespace

absl::Status with_option_names(const absl::Status& status) {
  if (status.ok()) return status;
  const std::string message(status.message());
  std::string out;
  for (size_t at = 0; at < message.size();) {
    const auto* found = std::end(kNames);
    const bool inside_word = at > 0 && message[at - 1] != ' ';
    for (const auto* entry = std::begin(kNames); !inside_word && entry != found; ++entry) {
      const auto& [name, option] = *entry;
      if (!message.substr(at).starts_with(name) || !is_name(name, message, at)) continue;
      found = entry;
      break;
    }
    if (found == std::end(kNames)) {
      out += message[at++];
      continue;
    }
    out += found->second;
    at += found->first.size();
  }
  return {status.code(), out};
}

}  // namespace kascade::client
