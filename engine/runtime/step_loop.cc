#include "engine/runtime/step_loop.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/attention/observer.h"

namespace kascade {
namespace {

constexpr double kLengthsRemembered = 32;  // of sequences that ended

}  // namespace

StepLoop::StepLoop(const SchedulerLimits& limits, int64_t max_selection_bytes,
                   Transformer& transformer, KvCache& cache, BlockAllocator& blocks,
                   Publish publish)
    : transformer_(transformer),
      cache_(cache),
      blocks_(blocks),
      step_time_(transformer.config().layers),
      scheduler_(limits, blocks, &step_time_),
      builder_(blocks.block_size()),
      outputs_(limits.max_sequences, transformer, scheduler_, stats_),
      limits_(limits),
      max_selection_bytes_(max_selection_bytes),
      publish_(std::move(publish)) {
  refresh_stats();
}

// ---- Admission and end of requests ----

std::shared_ptr<const AttentionPolicy> StepLoop::policy_of(const AttentionChoice& choice) {
  std::erase_if(policies_, [](const auto& entry) { return entry.second.expired(); });
  auto& cached = policies_[choice];
  auto policy = cached.lock();
  if (!policy) cached = policy = make_policy(choice, transformer_.config().layers);
  return policy;
}

std::vector<std::shared_ptr<const AttentionPolicy>> StepLoop::policies_of(const Request& request) {
  const auto* watched = std::get_if<Observe>(&request.task);
  if (watched != nullptr && is_dense(request.attention)) {
    return {make_dense_policy(watched->observer->query_tile())};
  }
  const auto runs = computed_attention(request, limits_of(transformer_.config()));
  std::vector<std::shared_ptr<const AttentionPolicy>> policies;
  for (const AttentionChoice& choice : runs) policies.push_back(policy_of(choice));
  return policies;
}

SequenceSpec StepLoop::spec_of(const QueuedRequest& queued) {
  const Request& request = queued.request;
  const ModelConfig& model = transformer_.config();
  const auto size = static_cast<int32_t>(request.tokens.size());
  SequenceSpec spec{.policies = policies_of(request),
                    .max_tokens = size,
                    .prefill_end = size,
                    .branches = request.runs(),
                    .priority = queued.entry.priority,
                    .has_whole_chunks = queued.has_whole_chunks,
                    .client = queued.entry.client,
                    .deadline = request.deadline};
  if (const auto* generate = std::get_if<Generate>(&request.task)) {
    spec.generates = true;
    spec.max_tokens = static_cast<int32_t>(
        std::min<int64_t>(int64_t{size} + generate->max_new_tokens, model.context));
  } else if (const auto* score = std::get_if<Score>(&request.task)) {
    spec.first_logit = score->first_scored - 1;
    const bool per_query = score->granularity == SelectionGranularity::kPerQuery;
    if (per_query) spec.prefill_end = score->first_scored;
  } else {
    spec.first_logit = std::numeric_limits<int32_t>::max();
    spec.prefill_end = std::min(size, std::get<Observe>(request.task).per_query_from);
  }
  for (const auto& policy : spec.policies) {
    spec.query_tile = policy->tiling().query_tile;
    spec.max_per_query_rows =
        per_query_rows(*policy, model.kv_heads, spec.max_tokens, max_selection_bytes_);
  }
  return spec;
}

absl::Status StepLoop::admit(QueuedRequest queued, absl::Time now) {
  SequenceSpec spec = spec_of(queued);
  const SeqId id = queued.id;
  const auto prompt = static_cast<int32_t>(queued.request.tokens.size());
  const bool generates = spec.generates;
  spec.tokens = std::move(queued.request.tokens);
  auto active = std::make_unique<ActiveRequest>(std::move(queued), prompt, spec.branches, now);
  absl::Status status = scheduler_.admit(id, std::move(spec), std::move(active));
  if (!status.ok()) return status;
  if (generates) stats_.prompt_tokens += prompt;
  refresh_stats();
  return absl::OkStatus();
}

void StepLoop::end(SeqId id, FinishReason reason, absl::Status status) {
  if (auto sequence = scheduler_.cancel(id)) end(std::move(sequence), reason, std::move(status));
}

void StepLoop::end(std::unique_ptr<Sequence> sequence, FinishReason reason, absl::Status status) {
  ActiveRequest& request = ActiveRequest::of(*sequence);
  request.finish = Finish{.reason = reason, .status = std::move(status)};
  if (request.started == absl::InfiniteFuture()) changes_.gone.push_back(request.entry);
  Event event{.seq = sequence->id};
  refresh_stats();
  send(request, event);
}

void StepLoop::end_all(FinishReason reason, const absl::Status& status) {
  for (const SeqId id : scheduler_.ids()) end(id, reason, status);
}

// ---- One step ----

bool StepLoop::step(const std::function<absl::Time()>& clock) {
  const absl::Time begin = clock();
  StepPlan plan = scheduler_.plan(begin);
  const bool expired = !plan.expired.empty();
  for (std::unique_ptr<Sequence>& sequence : plan.expired) {
    const absl::Duration age = begin - ActiveRequest::of(*sequence).admitted;
    end(std::move(sequence), FinishReason::kDeadline,
        absl::DeadlineExceededError(
            absl::StrCat("deadline passed after ", absl::FormatDuration(age), " in the server")));
  }
  if (plan.empty()) {
    refresh_stats();
    return expired;
  }
  const StepLayout layout = builder_.build(plan, scheduler_);
  record_start(layout, begin);
  const StepFeatures features = step_time_.features(plan, scheduler_);
  const Tensor hidden = transformer_.forward(layout.step, cache_);
  count_keys(layout);

  StepEvents events;
  const std::vector<Outcome> outcomes = outputs_.decide(layout, hidden, events);
  const absl::Time end = clock();
  record_end(layout, end);
  record_step_time(features, end - begin);
  changes_.idle_seconds = std::max(0.0, absl::ToDoubleSeconds(begin - last_step_end_));
  last_step_end_ = end;
  ++stats_.steps;
  stats_.rows += layout.step.batch.rows();
  stats_.last_step = end - begin;
  stats_.step_time += stats_.last_step;
  stats_.attention_times = transformer_.attention_times();
  deliver(scheduler_.commit(plan, outcomes), events);
  return true;
}

void StepLoop::record_start(const StepLayout& layout, absl::Time begin) {
  for (const PlannedSlice& planned : layout.slices) {
    ActiveRequest& request = ActiveRequest::of(*planned.sequence);
    if (planned.sequence->rank() == Priority::kInteractive) {
      changes_.interactive_rows += planned.slice->count;
    }
    if (request.started != absl::InfiniteFuture()) continue;
    request.started = begin;
    changes_.started.push_back(request.entry);
  }
}

void StepLoop::record_end(const StepLayout& layout, absl::Time end) {
  for (const PlannedSlice& planned : layout.slices) {
    ActiveRequest& request = ActiveRequest::of(*planned.sequence);
    const bool prefilled = planned.slice->begin + planned.slice->count >= request.prompt_tokens;
    if (prefilled) request.prefilled = std::min(request.prefilled, end);
  }
}

void StepLoop::record_step_time(const StepFeatures& features, absl::Duration duration) {
  const double seconds = absl::ToDoubleSeconds(duration);
  if (const auto predicted = step_time_.seconds(features)) {
    stats_.predicted_step_seconds += *predicted;
    stats_.measured_step_seconds += std::max(seconds, 0.0);
    stats_.step_prediction_error_seconds += std::abs(*predicted - seconds);
  }
  step_time_.observe(features, duration);
  changes_.step_seconds = seconds;
  const double rows = limits_.max_batch_tokens;
  const auto full_step = step_time_.seconds({.rows = rows});
  if (full_step && *full_step > 0) changes_.rows_per_second = rows / *full_step;
}

void StepLoop::count_keys(const StepLayout& layout) {
  const Batch& batch = layout.step.batch;
  auto group = layout.step.groups.begin();
  for (size_t i = 0; i < layout.slices.size(); ++i) {
    const auto& [slice, sequence, policy] = layout.slices[i];
    while (group->policy != policy) ++group;
    ActiveRequest& request = ActiveRequest::of(*sequence);
    const auto run = static_cast<size_t>(slice->branch);
    const TileRange tiles = layout.built.tiles[i];
    for (int32_t tile = tiles.begin; tile < tiles.begin + tiles.count; ++tile) {
      const TileSpan span{batch.positions[batch.tile_start[tile]],
                          batch.positions[batch.tile_start[tile + 1] - 1],
                          batch.positions[batch.tile_start[tile]] >= sequence->spec.prefill_end};
      const bool first_time = span.first >= request.counted_until[run];
      count_tile(*group, tile, span, first_time ? &request.counts[run] : nullptr);
    }
    int32_t& counted = request.counted_until[run];
    counted = std::max(counted, slice->begin + slice->count);
  }
}

void StepLoop::count_tile(const AttentionGroup& group, int32_t index, const TileSpan& tile,
                          AttentionCounts* counts) {
  const AttentionPolicy& policy = *group.policy;
  const KvCacheShape& shape = cache_.shape();
  for (int32_t layer = 0; layer < shape.layers; ++layer) {
    const KeysRead keys = policy.keys_read_by_heads(layer, tile, shape.kv_heads, *group.state,
                                                    index - group.tiles.begin);
    const auto kind = static_cast<size_t>(policy.layer_kind(layer));
    stats_.keys_attended[kind] += keys.attended;
    stats_.keys_scored[kind] += keys.scored;
    stats_.keys_causal += keys.causal;
    if (counts != nullptr) counts->add(keys, shape.row_bytes(), int4_key_bytes(shape.head_dim));
  }
  const int32_t rows = tile.last - tile.first + 1;
  const int32_t dense_rows = policy.attends_to_all(tile.first) ? rows : 0;
  stats_.dense_rows_of_sparse += dense_rows;
  if (counts != nullptr) counts->add_positions(rows, dense_rows);
}

// ---- Events ----

void StepLoop::deliver(const std::vector<std::unique_ptr<Sequence>>& ended, StepEvents& events) {
  for (const auto& sequence : ended) {
    ActiveRequest& request = ActiveRequest::of(*sequence);
    if (!request.finish) request.finish = Finish{.reason = FinishReason::kCompleted};
    record_length(*sequence);
  }
  refresh_stats();
  // A sink may ask for statistics or cancel; both see the state after this step.
  for (auto& [id, event] : events) {
    if (const Sequence* running = scheduler_.find(id)) send(ActiveRequest::of(*running), event);
  }
  for (const auto& sequence : ended) {
    send(ActiveRequest::of(*sequence), events.at(sequence->id));
  }
}

void StepLoop::send(ActiveRequest& request, Event& event) {
  if (request.finish) {
    request.finish->counts = request.counts;
    const absl::Time started = std::min(request.started, request.prefilled);
    if (request.started != absl::InfiniteFuture()) {
      request.finish->queued = started - request.admitted;
    }
    if (request.prefilled != absl::InfiniteFuture()) {
      request.finish->prefill = request.prefilled - request.started;
    }
    event.finish = std::move(request.finish);
  }
  request.sink(event);
}

void StepLoop::refresh_stats() {
  stats_.preemptions = scheduler_.preemptions();
  stats_.running = scheduler_.running();
  stats_.waiting = scheduler_.waiting();
  stats_.waiting_tokens = scheduler_.waiting_tokens();
  for (const Priority priority : kEveryPriority) {
    ClassStats& queue = stats_.classes[static_cast<size_t>(priority)];
    queue.waiting = scheduler_.waiting(priority);
    queue.waiting_tokens = scheduler_.waiting_tokens(priority);
  }
  stats_.total_blocks = blocks_.total_blocks();
  stats_.free_blocks = blocks_.free_blocks();
  stats_.block_size = blocks_.block_size();
  changes_.outlook = place_outlook(scheduler_, limits_, blocks_, length_share_);
  publish_(stats_, std::exchange(changes_, {}));
}

void StepLoop::record_length(const Sequence& ended) {
  const int32_t prompt = ActiveRequest::of(ended).prompt_tokens;
  const int32_t permitted = ended.spec.max_tokens - prompt;
  if (!ended.spec.generates || permitted <= 0) return;
  const double share = static_cast<double>(std::ssize(ended.tokens) - prompt) / permitted;
  length_share_ += (share - length_share_) / kLengthsRemembered;
}

}  // namespace kascade
