// Kascade sparse attention (docs/method.md): some layers select keys, the other layers reuse a
// selection through their head map. Every layer attends with its own keys and values.
#ifndef KASCADE_ENGINE_ATTENTION_KASCADE_H_
#define KASCADE_ENGINE_ATTENTION_KASCADE_H_

#include <memory>

#include "engine/attention/policy.h"
#include "engine/schedule/schedule.h"

namespace kascade {

// The options by which a backend selects under a schedule's settings.
constexpr SelectOptions to_select_options(const SelectionSettings& settings) {
  if (settings.family == Family::kTile) {
    return {.pooling = Pooling::kLastRowMax,
            .unit = settings.query_tile,
            .by_int4_keys = settings.int4_keys};
  }
  const bool sum = settings.pooling == ScorePooling::kSum;
  return {.pooling = sum ? Pooling::kSum : Pooling::kMax,
          .all_heads = settings.all_heads,
          .by_int4_keys = settings.int4_keys,
          .mass = settings.mass,
          .min_keys = settings.mass > 0 ? settings.min_keys : 0};
}

// A ratio replaces the schedule's (Family::kKascade only; CHECKed), and its `mass` if it has one:
// the budget is then a fixed share of the keys. The schedule must be valid.
std::shared_ptr<const AttentionPolicy> make_kascade_policy(const ScheduledAttention& attention);

}  // namespace kascade

#endif  // KASCADE_ENGINE_ATTENTION_KASCADE_H_
