#include "engine/tokenizer/merges.h"

#include <algorithm>

namespace kascade::bpe {
namespace {

constexpr int32_t kNone = -1;
constexpr int32_t kMergedAway = -1;

}  // namespace

void MergeTable::add(int32_t left, int32_t right, Merge merge) {
  merges_.insert_or_assign(key(left, right), merge);
}

const MergeTable::Merge* MergeTable::find(int32_t left, int32_t right) const {
  const auto found = merges_.find(key(left, right));
  return found == merges_.end() ? nullptr : &found->second;
}

void MergeScratch::push(const MergeTable& table, int32_t position) {
  if (position == kNone) return;
  const Node& left = nodes_[position];
  if (left.next == kNone) return;
  const int32_t right = nodes_[left.next].id;
  const MergeTable::Merge* merge = table.find(left.id, right);
  if (!merge) return;
  queue_.push_back({merge->rank, position, left.id, right, merge->id});
  std::push_heap(queue_.begin(), queue_.end());
}

bool MergeScratch::is_current(const Candidate& candidate) const {
  const Node& left = nodes_[candidate.position];
  return left.id == candidate.left && left.next != kNone && nodes_[left.next].id == candidate.right;
}

absl::Status MergeScratch::merge(const MergeTable& table, std::span<const int32_t> symbols,
                                 EncodingRun& run) {
  const auto count = static_cast<int32_t>(symbols.size());
  absl::Status status = start(table, symbols, run);
  int32_t left_over = count;  // tokens
  while (status.ok() && !queue_.empty()) {
    status = run.add_work(1);
    std::pop_heap(queue_.begin(), queue_.end());
    const Candidate best = queue_.back();
    queue_.pop_back();
    if (!is_current(best)) continue;
    Node& left = nodes_[best.position];
    Node& right = nodes_[left.next];
    left.id = best.merged;
    right.id = kMergedAway;
    left.next = right.next;
    if (left.next != kNone) nodes_[left.next].previous = best.position;
    push(table, left.previous);
    push(table, best.position);
    --left_over;
  }
  if (status.ok()) status = run.expect_tokens(static_cast<size_t>(left_over));
  if (!status.ok()) return status;
  for (int32_t i = count == 0 ? kNone : 0; i != kNone; i = nodes_[i].next) {
    run.ids.push_back(nodes_[i].id);
  }
  return absl::OkStatus();
}

// Every merge takes one candidate off the queue and adds at most two, so that there are never more
// than two for each symbol.
absl::Status MergeScratch::start(const MergeTable& table, std::span<const int32_t> symbols,
                                 EncodingRun& run) {
  const size_t count = symbols.size();
  absl::Status status =
      run.hold(EncodingRun::Use::kMerging, count * (sizeof(Node) + 2 * sizeof(Candidate)));
  if (!status.ok()) return status;
  nodes_.clear();
  queue_.clear();
  nodes_.reserve(count);
  queue_.reserve(2 * count);
  const auto end = static_cast<int32_t>(count);
  for (int32_t i = 0; i < end; ++i) {
    nodes_.push_back({symbols[i], i - 1, i + 1 < end ? i + 1 : kNone});
  }
  for (int32_t i = 0; status.ok() && i < end; ++i) {
    push(table, i);
    status = run.add_work(1);
  }
  return status;
}

}  // namespace kascade::bpe
