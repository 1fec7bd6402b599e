// Why no sequence waits forever
//
// Call a sequence first if no other precedes it in queue_. Every plan() gives the first sequence
// rows, so it ends after finitely many steps and another becomes first:
// - Rows. The first sequence is served before all others. If it decodes, one row per branch is
//   reserved for it. Otherwise at least max_batch_tokens − max_sequences ≥ 2 · 128 rows are not
//   reserved for decoding, which is a query tile for each of at most two branches. A limit on the
//   duration of a step also leaves a query tile to the first chunk of a step.
// - Blocks. All other sequences have lower priority and can be preempted for it. admit() has
//   checked that the cache alone holds all its branches up to the last token that they will ever
//   feed.
// - A place among max_sequences. If it waits, no other sequence of its priority runs (see queue_),
//   and those of a lower priority are preempted for it.
// So a step is empty only if there is nothing to do, and age decides every conflict: a sequence
// loses its blocks only to one that precedes it, never to one that follows it.
#include "engine/scheduler/scheduler.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/check.h"

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

// Whether the sequence's rows that select per query count against the limit. They do not if only
// one is left to feed.
bool limits_per_query_rows(const Sequence& sequence) {
  const int32_t begin = std::max(sequence.computed, sequence.spec.prefill_end);
  return sequence.spec.max_per_query_rows > 0 && sequence.feed_end() - begin > 1;
}

}  // namespace

// The rows and the time that one plan() can still give out.
struct Scheduler::Budget {
  int32_t rows = 0;            // rows left, over all branches
  int32_t per_query_rows = 0;  // given to sequences that limit them
  // Set if sequences decode and the duration of a step is limited: the work of the step so far,
  // including all rows that decode in it.
  std::optional<StepFeatures> features{};
  bool has_chunk = false;
  bool may_start = true;  // false once a sequence got nothing: no later sequence may overtake it
};

// What the running sequences that follow a given one in queue_ hold.
struct Scheduler::LowerPriorityUsage {
  int32_t blocks = 0;
  int32_t branches = 0;
  int32_t decode_rows = 0;  // rows that those of the same priority need to decode
};

Scheduler::Scheduler(const SchedulerLimits& limits, BlockAllocator& blocks,
                     const StepTimePredictor* predictor)
    : limits_(limits), blocks_(blocks), predictor_(predictor) {
  KASCADE_CHECK(limits.max_sequences >= 1 && limits.context >= 1);
  KASCADE_CHECK(limits.max_batch_tokens >= limits.max_sequences + kMaxBranches * kMaxQueryTile);
  KASCADE_CHECK(limits.max_step_seconds == 0 || predictor_ != nullptr);
}

absl::Status Scheduler::admit(SeqId id, SequenceSpec spec,
                              std::unique_ptr<SequenceAttachment> attachment) {
  KASCADE_CHECK(!sequences_.contains(id));
  KASCADE_CHECK(well_formed(spec, limits_.context));
  if (spec.branches > limits_.max_sequences) {
    return absl::FailedPreconditionError(
        absl::StrCat("needs ", spec.branches, " places; max_sequences is ", limits_.max_sequences));
  }
  auto sequence = std::make_unique<Sequence>();
  sequence->id = id;
  sequence->tokens = std::move(spec.tokens);
  sequence->spec = std::move(spec);
  sequence->attachment = std::move(attachment);
  sequence->order = next_order_++;
  const int32_t tokens = sequence->last_feed_end();
  const int32_t room = blocks_.total_blocks() / sequence->spec.branches;
  if (blocks_.blocks_for(tokens) > room) {
    return absl::FailedPreconditionError(
        absl::StrCat("needs cache for ", tokens, " tokens",
                     sequence->spec.branches > 1 ? " in each of 2 branches" : "", "; it holds ",
                     int64_t{room} * blocks_.block_size()));
  }
  const auto place =
      std::ranges::upper_bound(queue_, sequence->spec.priority, {},
                               [](const Sequence* other) { return other->spec.priority; });
  queue_.insert(place, sequence.get());
  sequences_.emplace(id, std::move(sequence));
  return absl::OkStatus();
}

std::unique_ptr<Sequence> Scheduler::cancel(SeqId id) { return release(id); }

std::unique_ptr<Sequence> Scheduler::release(SeqId id) {
  const auto found = sequences_.find(id);
  if (found == sequences_.end()) return nullptr;
  std::unique_ptr<Sequence> sequence = std::move(found->second);
  sequences_.erase(found);
  std::erase(queue_, sequence.get());
  sequence->tables.clear();
  return sequence;
}

std::vector<SeqId> Scheduler::ids() const {
  std::vector<SeqId> result;
  for (const Sequence* sequence : queue_) result.push_back(sequence->id);
  return result;
}

StepPlan Scheduler::plan(absl::Time now) {
  StepPlan plan;
  for (const SeqId id : ids()) {
    if (find(id)->spec.deadline <= now) plan.expired.push_back(release(id));
  }

  Budget budget{.rows = limits_.max_batch_tokens};
  for (const Sequence* sequence : queue_) {
    if (limits_.max_step_seconds == 0 || !sequence->running() || !sequence->decoding()) continue;
    if (!budget.features) budget.features.emplace();
    *budget.features += predictor_->features(*sequence, sequence->computed, sequence->computed + 1);
  }
  for (Sequence* sequence : queue_) plan_sequence(*sequence, budget, plan);
  std::ranges::stable_partition(plan.slices,
                                [&](const Slice& slice) { return find(slice.seq)->decoding(); });
  return plan;
}

Scheduler::LowerPriorityUsage Scheduler::lower_priority_usage(const Sequence& sequence) const {
  LowerPriorityUsage result;
  for (auto other = queue_.rbegin(); *other != &sequence; ++other) {
    if (!(*other)->running()) continue;
    const int32_t branches = (*other)->spec.branches;
    result.blocks += held_blocks(**other);
    result.branches += branches;
    if ((*other)->spec.priority == sequence.spec.priority && (*other)->decoding()) {
      result.decode_rows += branches;
    }
  }
  return result;
}

void Scheduler::plan_sequence(Sequence& sequence, Budget& budget, StepPlan& plan) {
  const SequenceSpec& spec = sequence.spec;
  const bool starts = !sequence.running();
  if (starts && !budget.may_start) return;
  const int32_t kept_back = sequence.decoding() ? 0 : lower_priority_usage(sequence).decode_rows;
  const int32_t begin = sequence.computed;
  int32_t end = chunk_end(sequence, std::max(0, budget.rows - kept_back) / spec.branches, budget);
  StepFeatures chunk;
  if (budget.features && !sequence.decoding())
    end = chunk_end_within_step_time(sequence, end, budget, chunk);
  if (end == begin) {
    if (starts) budget.may_start = false;
    return;
  }
  if (!reserve(sequence, end)) {
    budget.may_start = false;  // blocks that become free are for this sequence
    return;
  }
  budget.rows -= (end - begin) * spec.branches;
  if (budget.features && !sequence.decoding()) {
    *budget.features += chunk;
    budget.has_chunk = true;
  }
  if (limits_per_query_rows(sequence)) {
    budget.per_query_rows += std::max(0, end - std::max(begin, spec.prefill_end));
  }
  const int32_t first_logit = spec.generates ? static_cast<int32_t>(sequence.tokens.size()) - 1
                                             : std::max(spec.first_logit, sequence.delivered);
  for (int32_t branch = 0; branch < spec.branches; ++branch) {
    plan.slices.push_back({sequence.id, branch, begin, end - begin, first_logit});
  }
}

// The end of a slice of at most `rows` rows; `computed` if there is no room for any.
int32_t Scheduler::chunk_end(const Sequence& sequence, int32_t rows, const Budget& budget) const {
  const SequenceSpec& spec = sequence.spec;
  const int32_t tile_part_end = std::min(spec.prefill_end, sequence.feed_end());
  const int32_t most = std::min(sequence.feed_end(), sequence.computed + rows);
  if (most < tile_part_end) {
    return std::max(sequence.computed, most / spec.query_tile * spec.query_tile);
  }
  if (!limits_per_query_rows(sequence)) return most;
  const int32_t row_part_begin = std::max(sequence.computed, tile_part_end);
  const int32_t per_query_rows = std::max(0, spec.max_per_query_rows - budget.per_query_rows);
  return std::min(most, row_part_begin + per_query_rows);
}

// The end of the part of a chunk [computed, end) that the step has time for; `chunk` receives the
// features of that part.
int32_t Scheduler::chunk_end_within_step_time(const Sequence& sequence, int32_t end,
                                              const Budget& budget, StepFeatures& chunk) const {
  const int32_t tile = sequence.spec.query_tile;
  StepFeatures all = budget.features.value_or(StepFeatures{});
  int32_t reached = sequence.computed;
  while (reached < end) {
    const int32_t next = std::min(end, (reached / tile + 1) * tile);
    const StepFeatures part = predictor_->features(sequence, reached, next);
    all += part;
    const bool least = reached == sequence.computed && !budget.has_chunk;
    if (!least && predictor_->seconds(all).value_or(0) > limits_.max_step_seconds) break;
    chunk += part;
    reached = next;
  }
  return reached;
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
  const auto last = std::ranges::find_if(queue_.rbegin(), queue_.rend(), &Sequence::running);
  KASCADE_CHECK(last != queue_.rend() && *last != &requester);
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
  return static_cast<int32_t>(std::ranges::count_if(queue_, &Sequence::running));
}

int32_t Scheduler::running_branches() const {
  int32_t branches = 0;
  for (const Sequence* sequence : queue_) {
    if (sequence->running()) branches += sequence->spec.branches;
  }
  return branches;
}

int32_t Scheduler::waiting() const { return static_cast<int32_t>(queue_.size()) - running(); }

int32_t Scheduler::waiting(Priority priority) const {
  return static_cast<int32_t>(std::ranges::count_if(queue_, [priority](const Sequence* sequence) {
    return !sequence->running() && sequence->spec.priority == priority;
  }));
}

int64_t Scheduler::waiting_tokens() const {
  int64_t tokens = 0;
  for (const Sequence* sequence : queue_) {
    if (!sequence->running()) tokens += sequence->remaining();
  }
  return tokens;
}

}  // namespace kascade
