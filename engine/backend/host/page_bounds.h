// Bounds on q·k for pages of keys, by which Quest chooses: the part of select_pages() that all fast
// backends on the host share. One object per thread, used again from call to call.
#ifndef KASCADE_ENGINE_BACKEND_HOST_PAGE_BOUNDS_H_
#define KASCADE_ENGINE_BACKEND_HOST_PAGE_BOUNDS_H_

#include <cstdint>
#include <vector>

#include "engine/backend/host/choice_kernels.h"
#include "engine/backend/host/select.h"
#include "engine/backend/layer_cache.h"
#include "engine/backend/tensor.h"

namespace kascade {

class PageBounds {
 public:
  // Takes in the first `pages` pages of `page_size` keys of one KV head. `blocks`: the sequence's
  // block table. f32, bf16 and int8 caches.
  void read(LayerCache cache, const int32_t* blocks, int32_t kv_head, int32_t page_size,
            int32_t pages);

  // Writes the keys of the best pages to `out`, ascending: units of the choice are pages. q: rows
  // of the KV head's query heads, one behind the other.
  void choose(Tensor q, const Choice& keys, const ChoiceKernels& kernels, int32_t* out);

 private:
  void read_key(Tensor keys, int64_t row);
  // Raises the scores of the first `pages` pages to what one query's bounds are.
  void raise_scores(const float* q, int32_t pages);

  int64_t dim_ = 0;
  int64_t pages_ = 0;
  // By component, then page: a sum runs over components, and its neighbours are other pages' sums.
  std::vector<float> least_;    // [dim, pages]
  std::vector<float> largest_;  // [dim, pages]
  std::vector<float> key_;      // [dim]
  std::vector<float> low_;      // [dim] of the page that is read
  std::vector<float> high_;     // [dim]
  std::vector<float> sums_;     // [pages] bounds of one query
  std::vector<float> scores_;   // [pages] largest of all queries
  ChoiceWorkspace scratch_;
};

}  // namespace kascade

#endif  // KASCADE_ENGINE_BACKEND_HOST_PAGE_BOUNDS_H_
