// Which attention a request asks for.
#ifndef KASCADE_ENGINE_ATTENTION_CHOICE_H_
#define KASCADE_ENGINE_ATTENTION_CHOICE_H_

#include <compare>
#include <cstdint>
#include <vector>

namespace kascade {

// Published ways to attend sparsely without a schedule, for comparisons. Of `layers` all but
// dense_layers attend by them, all query tiles of 32 positions (or whole pages) as Kascade's.
enum class BaselineKind {
  kOracle,     // each layer's own best keys, by the exact probabilities of all
  kStreaming,  // StreamingLLM: the first and the newest keys
  kQuest,      // pages of keys by bounds on q·k
};

struct BaselineAttention {
  BaselineKind kind = BaselineKind::kOracle;
  double ratio = 0.1;      // share of the keys before the row's tile that is attended to, (0, 1]
  int32_t min_keys = 128;  // at least so many; ≥ 0
  int32_t sink_keys = 0;   // first keys: oracle on top, streaming within the share; 0 for Quest
  int32_t page_size = 16;  // Quest: keys, [1, 128]
  std::vector<int32_t> dense_layers{0};
  auto operator<=>(const BaselineAttention&) const = default;

  // As published, where that has an equal here.
  static BaselineAttention defaults(BaselineKind kind) {
    BaselineAttention baseline{.kind = kind};
    if (kind == BaselineKind::kStreaming) baseline.sink_keys = 4;
    if (kind == BaselineKind::kQuest) baseline.dense_layers = {0, 1};
    return baseline;
  }
};

}  // namespace kascade

#endif  // KASCADE_ENGINE_ATTENTION_CHOICE_H_
