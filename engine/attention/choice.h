// Which attention a request runs with: the alternatives and their settings. make_policy()
// (engine/attention/policy.h) turns a choice into what the layers do.
#ifndef KASCADE_ENGINE_ATTENTION_CHOICE_H_
#define KASCADE_ENGINE_ATTENTION_CHOICE_H_

#include <compare>
#include <cstdint>
#include <memory>
#include <optional>
#include <string_view>
#include <variant>
#include <vector>

#include "engine/schedule/schedule.h"

namespace kascade {

// Every layer attends to all causal keys.
struct DenseAttention {
  auto operator<=>(const DenseAttention&) const = default;
};

// Kascade: the layers select and reuse keys as the schedule says.
struct ScheduledAttention {
  std::shared_ptr<const Schedule> schedule{};  // not null; of the model's shape
  std::optional<double> ratio{};  // (0, 1]; in place of the schedule's (Family::kKascade only)
  auto operator<=>(const ScheduledAttention&) const = default;
};

// Published methods of sparse attention that need no schedule, to compare with. All layers but
// dense_layers use the method. Query tiles are 32 positions, or for Quest whole pages.
enum class BaselineKind {
  kOracle,     // each layer's own likeliest keys, by the exact probabilities of all keys
  kStreaming,  // StreamingLLM: the first and the newest keys
  kQuest,      // pages of keys by bounds on q·k
};

struct BaselineAttention {
  BaselineKind kind = BaselineKind::kOracle;
  double ratio = 0.1;      // share of the keys before the query's tile that is attended to, (0, 1]
  int32_t min_keys = 128;  // at least this many keys are attended to; [0, 1,048,576]
  // First keys of the sequence, always attended to: added to the share (oracle), part of it
  // (streaming), 0 (Quest); [0, 1,048,576].
  int32_t sink_keys = 0;
  int32_t page_size = 16;  // Quest: keys per page, [1, 128]
  std::vector<int32_t> dense_layers{0};
  auto operator<=>(const BaselineAttention&) const = default;

  // The published settings, as far as they have a counterpart here.
  static BaselineAttention defaults(BaselineKind kind) {
    BaselineAttention baseline{.kind = kind};
    if (kind == BaselineKind::kStreaming) baseline.sink_keys = 4;
    if (kind == BaselineKind::kQuest) baseline.dense_layers = {0, 1};
    return baseline;
  }
};

using AttentionChoice = std::variant<DenseAttention, ScheduledAttention, BaselineAttention>;

// The schedule that the choice runs under; null for other choices.
inline std::shared_ptr<const Schedule> schedule_of(const AttentionChoice& choice) {
  const auto* scheduled = std::get_if<ScheduledAttention>(&choice);
  return scheduled != nullptr ? scheduled->schedule : nullptr;
}
inline bool is_dense(const AttentionChoice& choice) {
  return std::holds_alternative<DenseAttention>(choice);
}
// What a request that asks for nothing gets: the active schedule if there is one, else dense.
inline AttentionChoice default_attention(std::shared_ptr<const Schedule> active) {
  if (active == nullptr) return DenseAttention{};
  return ScheduledAttention{.schedule = std::move(active)};
}

}  // namespace kascade

#endif  // KASCADE_ENGINE_ATTENTION_CHOICE_H_
