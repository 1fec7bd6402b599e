// The attention that a request asks for: the alternatives and their settings. make_policy()
// (engine/attention/policy.h) turns a choice into a policy.
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

// Every layer attends to all causal keys, within the model's own sliding window if it has one.
struct DenseAttention {
  auto operator<=>(const DenseAttention&) const = default;
};

// Kascade: the layers select and reuse keys as the schedule says.
struct ScheduledAttention {
  std::shared_ptr<const Schedule> schedule{};  // not null; has the model's shape
  std::optional<double> ratio{};         // (0, 1]; replaces the schedule's (Family::kKascade only)
  std::optional<int32_t> dense_below{};  // [0, kMaxDenseBelow]; replaces the schedule's
  auto operator<=>(const ScheduledAttention&) const = default;
};

// Ways to attend sparsely that need no schedule, for comparison. All layers except dense_layers use
// the method.
enum class BaselineKind {
  kOracle,     // each layer selects by the exact probabilities of all keys
  kStreaming,  // StreamingLLM: the first and the most recent keys
  kQuest,      // pages of keys, ranked by an upper bound on q·k
  kWindow,     // the most recent keys, the row's own included (sliding window)
  kChunk,      // the keys of the row's own chunk, up to the row itself
};

// Whether a row attends to the keys just before it and to no others.
constexpr bool attends_nearby(BaselineKind kind) {
  return kind == BaselineKind::kWindow || kind == BaselineKind::kChunk;
}

struct BaselineAttention {
  BaselineKind kind = BaselineKind::kOracle;
  // Oracle, StreamingLLM and Quest have a budget. Their query tile has 32 positions, for Quest
  // rounded up to whole pages.
  double ratio = 0.1;      // keys attended to ÷ keys before the query's tile, (0, 1]
  int32_t min_keys = 128;  // at least this many keys are attended to; [0, 1,048,576]
  // The first keys of the sequence are always attended to. Their number adds to the share for the
  // oracle, is part of it for streaming, and is 0 for Quest; [0, 1,048,576].
  int32_t sink_keys = 0;
  int32_t page_size = 16;  // Quest: keys per page, [1, 128]
  int32_t window = 0;      // kWindow: keys that a row attends to at most; [1, 1,048,576]
  int32_t chunk = 0;       // kChunk: tokens of a chunk; [1, 1,048,576]
  std::vector<int32_t> dense_layers{0};
  auto operator<=>(const BaselineAttention&) const = default;

  // The published settings, where they correspond to a setting here. Window and chunk are what some
  // models have in all layers; how many keys they attend to has no default.
  static BaselineAttention defaults(BaselineKind kind) {
    BaselineAttention baseline{.kind = kind};
    if (kind == BaselineKind::kStreaming) baseline.sink_keys = 4;
    if (kind == BaselineKind::kQuest) baseline.dense_layers = {0, 1};
    if (attends_nearby(kind)) baseline.dense_layers = {};
    return baseline;
  }
};

using AttentionChoice = std::variant<DenseAttention, ScheduledAttention, BaselineAttention>;

// The schedule of the choice; null for other choices.
inline std::shared_ptr<const Schedule> schedule_of(const AttentionChoice& choice) {
  const auto* scheduled = std::get_if<ScheduledAttention>(&choice);
  return scheduled != nullptr ? scheduled->schedule : nullptr;
}
inline bool is_dense(const AttentionChoice& choice) {
  return std::holds_alternative<DenseAttention>(choice);
}
// Dense attention of a model whose layers have a sliding window of `window` keys themselves: what
// the window baseline computes in all layers.
inline AttentionChoice dense_within(int32_t window) {
  BaselineAttention attention = BaselineAttention::defaults(BaselineKind::kWindow);
  attention.window = window;
  return attention;
}
// The attention of a request that does not choose one: the active schedule if there is one, else
// dense.
inline AttentionChoice default_attention(std::shared_ptr<const Schedule> active) {
  if (active == nullptr) return DenseAttention{};
  return ScheduledAttention{.schedule = std::move(active)};
}

}  // namespace kascade

#endif  // KASCADE_ENGINE_ATTENTION_CHOICE_H_
