// Quest: pages of keys, chosen by a bound on what q·k can be within a page; the page of the newest
// key is in the tile that every row attends to. The published method chooses for each query head;
// here a KV head's query heads share the choice by the best of their bounds, as all else does that
// reads a KV head's keys once.
#include <algorithm>
#include <memory>

#include "engine/attention/baseline.h"

namespace kascade {
namespace {

// Whole pages, and as near to the other baselines' tile as that allows.
int32_t tile_of(int32_t page_size) {
  return (kBaselineTile + page_size - 1) / page_size * page_size;
}

class QuestPolicy final : public BaselinePolicy {
 public:
  QuestPolicy(const BaselineAttention& settings, int32_t layers)
      : BaselinePolicy(settings, tile_of(settings.page_size), layers),
        page_size_(settings.page_size) {}

  // The pages that the budget pays for, at least one.
  Candidates candidates(int32_t position, bool per_query) const override {
    Candidates keys = candidates_of(settings(), position, per_query);
    const int32_t pages = std::max(keys.budget / page_size_, 1);
    keys.budget = std::min(pages * page_size_, keys.count());
    return keys;
  }

 protected:
  void choose(Backend& backend, const AttentionInput& in, Selection& selection) const override {
    backend.select_pages(in.q, in.cache, in.step, in.tiles, page_size_, selection);
  }
  // A page's least and largest components.
  int64_t rows_to_choose(const Candidates& candidates, int32_t /*position*/) const override {
    return 2 * int64_t{candidates.count() / page_size_};
  }
  Scores scores() const override { return Scores::kSummaries; }

 private:
  int32_t page_size_;
};

}  // namespace

std::shared_ptr<const AttentionPolicy> make_quest_policy(const BaselineAttention& settings,
                                                         int32_t layers) {
  return std::make_shared<QuestPolicy>(settings, layers);
}

}  // namespace kascade
