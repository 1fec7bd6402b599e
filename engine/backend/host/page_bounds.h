// Upper bounds on q·k for pages of keys, by which Quest selects: the part of select_pages() that
// all optimised backends on the host share. Each thread has one object and reuses it from call to
// call.
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
  // Computes the component-wise minimum and maximum of the first `pages` pages of `page_size` keys
  // of one KV head. `blocks` is the sequence's block table; the cache is f32, bf16 or int8.
  void read(LayerCache cache, const int32_t* blocks, int32_t kv_head, int32_t page_size,
            int32_t pages);

  // Writes the keys of the best pages to `out`, in ascending order; the units of `keys` are pages.
  // Each row of `q` holds the query heads of the KV head, one after the other.
  void choose(Tensor q, const Choice& keys, const ChoiceKernels& kernels, int32_t* out);

 private:
  void read_key(Tensor keys, int64_t row);
  // Raises the scores of the first `pages` pages to the bounds of one query where these are higher.
  void raise_scores(const float* q, int32_t pages);

  int64_t dim_ = 0;
  int64_t pages_ = 0;
  // These are laid out by component, then page: the bounds of all pages are summed side by side,
  // component by component.
  std::vector<float> least_;    // [dim, pages]
  std::vector<float> largest_;  // [dim, pages]
  std::vector<float> key_;      // [dim]
  std::vector<float> low_;      // [dim] minimum of the page being read
  std::vector<float> high_;     // [dim] its maximum
  std::vector<float> sums_;     // [pages] the bounds of one query
  std::vector<float> scores_;   // [pages] maximum over all queries
  ChoiceWorkspace workspace_;
};

}  // namespace kascade

#endif  // KASCADE_ENGINE_BACKEND_HOST_PAGE_BOUNDS_H_
