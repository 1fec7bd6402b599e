#include "engine/runtime/step_builder.h"

#include <algorithm>
#include <utility>

#include "engine/runtime/active_request.h"

namespace kascade {
namespace {

const AttentionPolicy* policy_of(const Sequence& sequence, const Slice& slice) {
  return sequence.spec.policies[static_cast<size_t>(slice.branch)].get();
}

}  // namespace

StepLayout StepBuilder::build(const StepPlan& plan, const Scheduler& scheduler) {
  StepLayout layout;
  std::vector<const AttentionPolicy*> order;
  for (const Slice& slice : plan.slices) {
    const AttentionPolicy* policy = policy_of(*scheduler.find(slice.seq), slice);
    if (std::ranges::find(order, policy) == order.end()) order.push_back(policy);
  }
  for (const AttentionPolicy* policy : order) {
    for (const Slice& slice : plan.slices) {
      const Sequence* sequence = scheduler.find(slice.seq);
      if (policy_of(*sequence, slice) != policy) continue;
      layout.slices.push_back({&slice, sequence, policy});
    }
  }
  layout.built = build_batch(layout.slices, block_size_);
  layout.step.batch = std::move(layout.built.batch);
  while (states_.size() < order.size()) states_.push_back(std::make_unique<PolicyState>());
  add_groups(layout);
  return layout;
}

void StepBuilder::add_groups(StepLayout& layout) {
  std::vector<AttentionGroup>& groups = layout.step.groups;
  for (size_t i = 0; i < layout.slices.size(); ++i) {
    const auto& [slice, sequence, policy] = layout.slices[i];
    const TileRange tiles = layout.built.tiles[i];
    if (groups.empty() || groups.back().policy != policy) {
      groups.push_back({policy, tiles, states_[groups.size()].get()});
    } else {
      groups.back().tiles.count += tiles.count;
    }
    if (const auto* watched = std::get_if<Observe>(&ActiveRequest::of(*sequence).task)) {
      layout.step.observed.push_back({watched->observer.get(), tiles, groups.size() - 1});
    }
  }
}

}  // namespace kascade
