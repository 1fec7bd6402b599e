// Why no interactive and no batch sequence waits forever
//
// Call a sequence first if no other precedes it in queue_. Every plan() gives the first sequence
// rows, so it ends after finitely many steps and another becomes first:
// - Rows. The first sequence is served before all others. If it decodes, one row per branch is
//   reserved for it. Otherwise at least max_batch_tokens − max_sequences ≥ 2 · 128 rows are not
//   reserved for decoding, which is a query tile for each of at most two branches, and what is kept
//   for a promoted sequence leaves it this tile. A limit on the duration of a step also leaves a
//   query tile to the first chunk of a step.
// - Blocks. All other sequences have lower precedence and can be preempted for it. admit() has
//   checked that the cache alone holds all its branches up to the last token that they will ever
//   feed.
// - A place among max_sequences. If it waits, no other sequence of its rank runs (see
//   SequenceQueue), and those of a later rank are preempted for it.
// So a step is empty only if there is nothing to do. A sequence loses its blocks only to one that
// precedes it, never to one that follows it.
//
// An interactive sequence that has started is preceded only by those that started before it, which
// are finitely many and end one after the other. One that has not started precedes all batch
// sequences but at most one at a time, the promoted one. The oldest of them starts at the latest
// when SequenceQueue::kMostOvertaking others started before it, and each of those starts because it
// was first, or because there was room behind those that had started.
//
// Batch sequences are served like this while no interactive one is left. If interactive work never
// ends, every step in which batch work gets less than its share adds to owed_to_batch_, so a batch
// sequence is promoted after finitely many steps. From then on it precedes all interactive
// sequences that have not started, so finitely many precede it, and it ends. The next is promoted
// only after interactive work had its own share again. Background sequences have no such promise.
#include "engine/scheduler/scheduler.h"

#include <algorithm>
#include <utility>

#include "engine/base/check.h"
#include "engine/scheduler/admission.h"
#include "engine/scheduler/step_budget.h"

namespace kascade {
namespace {

constexpr int32_t kMaxBranches = 2;
constexpr int32_t kMaxQueryTile = 128;

bool well_formed(const SequenceSpec& spec, int32_t context) {
  const auto size = static_cast<int64_t>(spec.tokens.size());
  const bool lengths =
      spec.generates ? size >= 1 && size < spec.max_tokens : size >= 2 && size == spec.max_tokens;
  return lengths && spec.max_tokens <= context && spec.query_tile >= 1 &&
         spec.query_tile <= kMaxQueryTile && spec.branches >= 1 && spec.branches <= kMaxBranches &&
         spec.prefill_end >= 0 && spec.max_per_query_rows >= 0 && spec.first_logit >= 0;
}

int32_t held_blocks(const Sequence& sequence) {
  int32_t held = 0;
  for (const BlockTable& table : sequence.tables)
    held += static_cast<int32_t>(table.blocks().size());
  return held;
}

}  // namespace

Scheduler::Scheduler(const SchedulerLimits& limits, BlockAllocator& blocks,
                     const StepTimePredictor* predictor)
    : limits_(limits), blocks_(blocks), predictor_(predictor) {
  KASCADE_CHECK(limits.max_sequences >= 1 && limits.context >= 1);
  KASCADE_CHECK(limits.max_batch_tokens >= limits.max_sequences + kMaxBranches * kMaxQueryTile);
  KASCADE_CHECK(limits.max_step_seconds == 0 || predictor_ != nullptr);
  KASCADE_CHECK(limits.batch_share >= 1 && limits.batch_share <= 50);
  KASCADE_CHECK(limits.background_share >= 0);
}

absl::Status Scheduler::admit(SeqId id, SequenceSpec spec,
                              std::unique_ptr<SequenceAttachment> attachment) {
  KASCADE_CHECK(!sequences_.contains(id));
  KASCADE_CHECK(well_formed(spec, limits_.context));
  auto sequence = std::make_unique<Sequence>();
  sequence->id = id;
  sequence->tokens = std::move(spec.tokens);
  sequence->spec = std::move(spec);
  sequence->attachment = std::move(attachment);
  absl::Status fits = check_fits(sequence->last_feed_end(), sequence->spec.branches, blocks_,
                                 limits_.max_sequences);
  if (!fits.ok()) return fits;
  queue_.add(*sequence);
  sequences_.emplace(id, std::move(sequence));
  return absl::OkStatus();
}

std::unique_ptr<Sequence> Scheduler::cancel(SeqId id) {
  return sequences_.contains(id) ? release(id) : nullptr;
}

std::unique_ptr<Sequence> Scheduler::release(SeqId id) {
  auto node = sequences_.extract(id);
  std::unique_ptr<Sequence> sequence = std::move(node.mapped());
  queue_.remove(*sequence);
  if (promoted_ == sequence.get()) promoted_ = nullptr;
  sequence->tables.clear();
  return sequence;
}

std::vector<SeqId> Scheduler::ids() const {
  std::vector<SeqId> result;
  for (const Sequence* sequence : queue_.in_order()) result.push_back(sequence->id);
  return result;
}

StepPlan Scheduler::plan(absl::Time now) {
  StepPlan plan;
  for (const SeqId id : ids()) {
    if (find(id)->spec.deadline <= now) plan.expired.push_back(release(id));
  }
  promote_starved_batch();
  StepBudget budget = new_budget();
  for (const Priority rank : kEveryPriority) {
    if (rank == Priority::kBackground) limit_background(plan, budget);
    for (Sequence* sequence : queue_.started(rank)) plan_sequence(*sequence, budget, plan);
    start_waiting(rank, budget, plan);
  }
  std::ranges::stable_partition(plan.slices,
                                [&](const Slice& slice) { return find(slice.seq)->decoding(); });
  record_batch_service(plan);
  return plan;
}

void Scheduler::start_waiting(Priority rank, StepBudget& budget, StepPlan& plan) {
  while (budget.may_start) {
    Sequence* next = queue_.next_to_start(rank);
    if (next == nullptr) return;
    plan_sequence(*next, budget, plan);
    if (next->running()) queue_.mark_started(*next);
  }
}

LowerPriorityUsage Scheduler::lower_priority_usage(const Sequence& sequence) const {
  LowerPriorityUsage result;
  const std::vector<Sequence*>& order = queue_.in_order();
  for (auto other = order.rbegin(); *other != &sequence; ++other) {
    const int32_t branches = (*other)->spec.branches;
    const bool decodes = (*other)->running() && (*other)->decoding();
    if ((*other)->rank() == sequence.rank()) {
      result.decode_rows += decodes ? branches : 0;
      result.chunk_rows += decodes ? 0 : branches * (*other)->remaining();
    }
    if (!(*other)->running()) continue;
    result.blocks += held_blocks(**other);
    result.branches += branches;
  }
  return result;
}

void Scheduler::plan_sequence(Sequence& sequence, StepBudget& budget, StepPlan& plan) {
  const bool starts = !sequence.running();
  if (starts && !budget.may_start) return;
  const int32_t branches = sequence.spec.branches;
  // The limits on background work hold for all of its rows.
  const bool is_chunk = !sequence.decoding() || sequence.rank() == Priority::kBackground;
  const int32_t rows = is_chunk ? chunk_rows(sequence, budget) : budget.rows;
  int32_t end = chunk_end(sequence, std::max(0, rows) / branches, budget);
  StepFeatures features;
  const bool is_spared =
      budget.time && budget.time->spares_whole_chunks && sequence.spec.has_whole_chunks;
  if (budget.time && is_chunk && !is_spared) {
    end = chunk_end_within_step_time(sequence, end, budget, features);
  }
  if (end == sequence.computed) {
    if (starts) budget.may_start = false;
    return;
  }
  if (!reserve(sequence, end)) {
    budget.may_start = false;  // blocks that become free are for this sequence
    return;
  }
  take(sequence, end, budget, plan);
  budget.features += features;
  budget.has_chunk = budget.has_chunk || is_chunk;
}

// Gives the sequence the rows up to `end`.
void Scheduler::take(const Sequence& sequence, int32_t end, StepBudget& budget,
                     StepPlan& plan) const {
  const SequenceSpec& spec = sequence.spec;
  const int32_t begin = sequence.computed;
  const int32_t rows = (end - begin) * spec.branches;
  budget.rows -= rows;
  if (sequence.rank() == Priority::kBackground) budget.background_rows -= rows;
  budget.promoted_is_served = budget.promoted_is_served || sequence.promoted;
  if (sequence.limits_per_query_rows()) {
    budget.per_query_rows += std::max(0, end - std::max(begin, spec.prefill_end));
  }
  const int32_t first_logit = spec.generates ? static_cast<int32_t>(sequence.tokens.size()) - 1
                                             : std::max(spec.first_logit, sequence.delivered);
  for (int32_t branch = 0; branch < spec.branches; ++branch) {
    plan.slices.push_back({sequence.id, branch, begin, end - begin, first_logit});
  }
}

// Gives all branches blocks for `tokens` tokens, preempting sequences of lower priority if that
// suffices. A sequence starts only if all of its present tokens fit, although blocks are allocated
// only for `tokens`: otherwise a preempted sequence would start again at once and soon lose its
// blocks again.
bool Scheduler::reserve(Sequence& sequence, int32_t tokens) {
  const int32_t branches = sequence.spec.branches;
  const bool starts = !sequence.running();
  const int32_t places = starts ? branches : 0;
  const int32_t needed = branches * blocks_.blocks_for(tokens) - held_blocks(sequence);
  if (starts || needed > blocks_.free_blocks()) {
    const LowerPriorityUsage others = lower_priority_usage(sequence);
    const int32_t present = starts ? branches * blocks_.blocks_for(sequence.feed_end()) : needed;
    if (present > blocks_.free_blocks() + others.blocks) return false;
    if (running_branches() - others.branches + places > limits_.max_sequences) return false;
  }
  while (needed > blocks_.free_blocks() || running_branches() + places > limits_.max_sequences) {
    preempt_last(sequence);
  }
  for (int32_t place = 0; place < places; ++place) sequence.tables.emplace_back(blocks_);
  for (BlockTable& table : sequence.tables) {
    const bool grown = table.grow(tokens);
    KASCADE_CHECK(grown);
  }
  return true;
}

void Scheduler::preempt_last(const Sequence& requester) {
  const std::vector<Sequence*>& order = queue_.in_order();
  const auto last = std::ranges::find_if(order.rbegin(), order.rend(), &Sequence::running);
  KASCADE_CHECK(last != order.rend() && *last != &requester);
  (*last)->tables.clear();
  (*last)->computed = 0;
  ++preemptions_;
}

std::vector<std::unique_ptr<Sequence>> Scheduler::commit(const StepPlan& plan,
                                                         std::span<const Outcome> outcomes) {
  for (const Slice& slice : plan.slices) {
    Sequence* sequence = find_mutable(slice.seq);
    if (sequence == nullptr || slice.branch != 0) continue;
    KASCADE_CHECK(sequence->computed == slice.begin);
    sequence->computed += slice.count;
    sequence->delivered = std::max(sequence->delivered, sequence->computed);
    queue_.charge_progress(*sequence);
  }
  std::vector<std::unique_ptr<Sequence>> ended;
  for (const Outcome& outcome : outcomes) {
    Sequence* sequence = find_mutable(outcome.seq);
    if (sequence == nullptr) continue;
    if (outcome.generated.has_value()) {
      KASCADE_CHECK(sequence->spec.generates && sequence->remaining() == 0);
      sequence->tokens.push_back(*outcome.generated);
    }
    const bool full = static_cast<int32_t>(sequence->tokens.size()) >= sequence->spec.max_tokens;
    if (outcome.finished || (sequence->spec.generates && full)) {
      ended.push_back(release(outcome.seq));
    }
  }
  for (const Slice& slice : plan.slices) {
    const Sequence* sequence = find(slice.seq);
    if (sequence == nullptr || sequence->remaining() > 0) continue;
    KASCADE_CHECK(!sequence->spec.generates);  // its last token was fed, so an outcome was due
    ended.push_back(release(slice.seq));
  }
  return ended;
}

const Sequence* Scheduler::find(SeqId id) const {
  const auto found = sequences_.find(id);
  return found == sequences_.end() ? nullptr : found->second.get();
}

Sequence* Scheduler::find_mutable(SeqId id) {
  const auto found = sequences_.find(id);
  return found == sequences_.end() ? nullptr : found->second.get();
}

int32_t Scheduler::running() const {
  return static_cast<int32_t>(std::ranges::count_if(queue_.in_order(), &Sequence::running));
}

int32_t Scheduler::running_branches() const {
  int32_t branches = 0;
  for (const Sequence* sequence : queue_.in_order()) {
    if (sequence->running()) branches += sequence->spec.branches;
  }
  return branches;
}

int32_t Scheduler::waiting() const {
  return static_cast<int32_t>(queue_.in_order().size()) - running();
}

int32_t Scheduler::waiting(Priority priority) const {
  return static_cast<int32_t>(
      std::ranges::count_if(queue_.in_order(), [priority](const Sequence* sequence) {
        return !sequence->running() && sequence->spec.priority == priority;
      }));
}

int64_t Scheduler::waiting_tokens() const {
  int64_t tokens = 0;
  for (const Priority priority : kEveryPriority) tokens += waiting_tokens(priority);
  return tokens;
}

int64_t Scheduler::waiting_tokens(Priority priority) const {
  int64_t tokens = 0;
  for (const Sequence* sequence : queue_.in_order()) {
    const bool counts = !sequence->running() && sequence->spec.priority == priority;
    if (counts) tokens += sequence->remaining();
  }
  return tokens;
}

}  // namespace kascade
