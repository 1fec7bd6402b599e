// Attention to nearby keys alone, as whole models are built with it: a sliding window (Mistral) or
// chunks (Llama 4). The row at position t attends to the keys (t − window, t], or to the keys of
// its own chunk, [⌊t / chunk⌋ · chunk, t].
//
// The rows of a tile share where their keys begin. In a window every row begins elsewhere, so that
// each row is a tile of its own. The rows of a chunk all begin with it, so that a tile is as large
// as divides the chunk.
#include <algorithm>
#include <memory>

#include "engine/attention/baseline.h"

namespace kascade {
namespace {

class WindowPolicy final : public PositionPolicy {
 public:
  WindowPolicy(const BaselineAttention& settings, int32_t layers)
      : PositionPolicy(settings, /*query_tile=*/1, layers), window_(settings.window) {}

  Candidates candidates(int32_t position, bool /*per_query*/) const override {
    return {.begin = 0, .end = std::max(position + 1 - window_, 0), .budget = 0};
  }

 private:
  int32_t window_;
};

// The largest divisor of `chunk` that is at most kBaselineTile.
int32_t tile_of(int32_t chunk) {
  int32_t tile = kBaselineTile;
  while (chunk % tile != 0) --tile;
  return tile;
}

class ChunkPolicy final : public PositionPolicy {
 public:
  ChunkPolicy(const BaselineAttention& settings, int32_t layers)
      : PositionPolicy(settings, tile_of(settings.chunk), layers), chunk_(settings.chunk) {}

  Candidates candidates(int32_t position, bool /*per_query*/) const override {
    return {.begin = 0, .end = position / chunk_ * chunk_, .budget = 0};
  }

 private:
  int32_t chunk_;
};

}  // namespace

std::shared_ptr<const AttentionPolicy> make_nearby_policy(const BaselineAttention& settings,
                                                          int32_t layers) {
  if (settings.kind == BaselineKind::kWindow) {
    return std::make_shared<WindowPolicy>(settings, layers);
  }
  return std::make_shared<ChunkPolicy>(settings, layers);
}

}  // namespace kascade
