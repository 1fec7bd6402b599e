// Quest: selects pages of keys by an upper bound on q·k within the page. The page of the newest key
// lies in the query's own tile, which is always attended to. The published method selects for each
// query head. Here the query heads of a KV head share a selection, by the maximum of their bounds,
// so that the keys of a KV head are read once.
#include <algorithm>
#include <memory>

#include "engine/attention/baseline.h"

namespace kascade {
namespace {

// kBaselineTile rounded up to whole pages.
int32_t tile_of(int32_t page_size) {
  return (kBaselineTile + page_size - 1) / page_size * page_size;
}

class QuestPolicy final : public BaselinePolicy {
 public:
  QuestPolicy(const BaselineAttention& settings, int32_t layers)
      : BaselinePolicy(settings, tile_of(settings.page_size), layers),
        page_size_(settings.page_size) {}

  // The budget in whole pages, rounded down but at least one.
  Candidates candidates(int32_t position, bool per_query) const override {
    Candidates keys = candidates_of(settings(), position, per_query);
    const int32_t pages = std::max(keys.budget / page_size_, 1);
    keys.budget = keys.least = std::min(pages * page_size_, keys.count());
    return keys;
  }

 protected:
  void choose(Backend& backend, const AttentionInput& in, Selection& selection) const override {
    backend.select_pages(in.q, in.cache, in.step, in.tiles, page_size_, selection);
  }
  // The minimum and the maximum of each page count as one row each.
  int64_t rows_to_choose(const Candidates& candidates, int32_t /*position*/) const override {
    return 2 * int64_t{candidates.count() / page_size_};
  }
  Scores scores() const override { return Scores::kSummaries; }
  SelectOptions select_options() const override { return {.unit = page_size_}; }

 private:
  int32_t page_size_;
};

}  // namespace

std::shared_ptr<const AttentionPolicy> make_quest_policy(const BaselineAttention& settings,
                                                         int32_t layers) {
  return std::make_shared<QuestPolicy>(settings, layers);
}

}  // namespace kascade
