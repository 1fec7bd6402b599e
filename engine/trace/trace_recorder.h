// Records the trace of one query, and maps of the whole text if asked for, while the text runs. The
// engine's thread calls it; the caller reads the result after the last event of the text.
#ifndef KASCADE_ENGINE_TRACE_TRACE_RECORDER_H_
#define KASCADE_ENGINE_TRACE_TRACE_RECORDER_H_

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "engine/attention/observer.h"
#include "engine/trace/trace.h"

namespace kascade {

class TraceRecorder final : public LayerObserver {
 public:
  // `policy` is the one that the text runs with.
  TraceRecorder(TraceOptions options, std::shared_ptr<const AttentionPolicy> policy);

  int32_t query_tile() const override { return policy_->tiling().query_tile; }
  void attention_computed(Backend& backend, int32_t layer, const AttentionInput& in,
                          const AttendedKeys& keys) override;
  void residual_added(Backend& /*backend*/, int32_t /*layer*/, const Batch& /*batch*/,
                      TileRange /*tiles*/, Tensor /*before*/, Tensor /*after*/) override {}

  // The result, once the text has run.
  Trace take();

 private:
  // One tile of the batch in one layer.
  struct Tile {
    Backend& backend;
    const AttentionInput& in;
    const AttendedKeys& keys;
    int32_t index;  // in the batch
    int32_t first_position, last_position;
    int32_t key_count() const { return last_position + 1; }
  };

  void record_query(const Tile& tile, LayerTrace& out);
  void record_selection(const Tile& tile, LayerTrace& out);
  // `first_map`: the map of the layer's first KV head.
  void record_maps(const Tile& tile, size_t first_map);
  void add_to_row(const Tile& tile, int32_t kv_head, TraceMapRow& row);
  // Fills scores_.
  void score(const Tile& tile, Pooling pooling);
  std::span<const float> scores_of(const Tile& tile, int32_t kv_head) const {
    return std::span(scores_).subspan(static_cast<size_t>(kv_head) * tile.key_count(),
                                      static_cast<size_t>(tile.key_count()));
  }
  // Marks in attended_ [keys] what the last row of the tile attends to: all keys without a
  // selection, else the sinks, the keys selected for `kv_head` and the own tile.
  void mark(const Tile& tile, const Selection* selection, int32_t kv_head);

  const TraceOptions options_;
  const std::shared_ptr<const AttentionPolicy> policy_;
  Trace trace_;  // in its maps the masses are sums until take() divides them
  // Rows before it are in the maps already. A text that was preempted computes them again.
  int32_t mapped_until_ = 0;

  Buffer device_scores_;        // f32 [kv_heads, keys]; grows with the text
  std::vector<float> scores_;   // [kv_heads, keys]
  std::vector<bool> attended_;  // [keys]
};

}  // namespace kascade

#endif  // KASCADE_ENGINE_TRACE_TRACE_RECORDER_H_
