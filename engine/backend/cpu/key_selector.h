// Scores cached keys and selects those to attend to: Backend::pool_scores(), select_keys() and
// select_pages() on threads and kernels.
#ifndef KASCADE_ENGINE_BACKEND_CPU_KEY_SELECTOR_H_
#define KASCADE_ENGINE_BACKEND_CPU_KEY_SELECTOR_H_

#include <cstdint>
#include <vector>

#include "engine/backend/backend.h"
#include "engine/backend/cpu/kernels.h"
#include "engine/backend/cpu/thread_pool.h"
#include "engine/backend/cpu/thread_workspace.h"
#include "engine/backend/host/host_backend.h"
#include "engine/backend/tensor.h"

namespace kascade::cpu {

// The tiles of a batch for which keys are selected, and what they are selected by.
struct SelectingTiles {
  Tensor q;
  LayerCache cache;
  const Batch& batch;
  TileRange tiles;
};

// Selections have room for every tile and KV head of their range; the functions reset them.
class KeySelector {
 public:
  // `workspaces` [threads]; all outlive the selector.
  KeySelector(const Kernels& kernels, ThreadPool& pool, std::vector<ThreadWorkspace>& workspaces)
      : kernels_(kernels), pool_(pool), workspaces_(workspaces) {}

  // Writes the scores of the only tile of `in`, [kv_heads, keys].
  void pool_scores(const SelectingTiles& in, Pooling pooling, Tensor scores);
  void select_keys(const SelectingTiles& in, const SelectOptions& options,
                   HostSelection& selection);
  void select_pages(const SelectingTiles& in, int32_t page_size, HostSelection& selection);

 private:
  bool can_share_rows(const SelectingTiles& in, const SelectOptions& options) const;
  void select_in_parts(const SelectingTiles& in, const SelectOptions& options,
                       HostSelection& selection);
  void select_for_all_heads(const SelectingTiles& in, const SelectOptions& options,
                            HostSelection& selection);
  template <typename Score>
  void choose(const SelectingTiles& in, const SelectOptions& options, int32_t index,
              int32_t kv_head, HostSelection& selection, ThreadWorkspace& workspace,
              const Score& score) const;
  void pool_to_select(const SelectingTiles& in, int32_t tile, int32_t kv_head,
                      const SelectOptions& options, float* scores,
                      ThreadWorkspace& workspace) const;
  void pool(const SelectingTiles& in, int32_t tile, int32_t kv_head, Pooling pooling, float* scores,
            ThreadWorkspace& workspace) const;
  // Calls work(index of the tile, KV head, workspace) for each, on all threads.
  template <typename Work>
  void for_tiles(int32_t tiles, int32_t kv_heads, const Work& work) {
    pool_.run(int64_t{tiles} * kv_heads, [&](int64_t item, int32_t worker) {
      work(static_cast<int32_t>(item / kv_heads), static_cast<int32_t>(item % kv_heads),
           workspaces_[static_cast<size_t>(worker)]);
    });
  }

  const Kernels& kernels_;
  ThreadPool& pool_;
  std::vector<ThreadWorkspace>& workspaces_;
  HostBuffer powers_{};  // of one call of select_in_parts()
};

}  // namespace kascade::cpu

#endif  // KASCADE_ENGINE_BACKEND_CPU_KEY_SELECTOR_H_
