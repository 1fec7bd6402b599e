#include "engine/runtime/step_loop.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>

#include "absl/strings/str_cat.h"
#include "engine/base/check.h"
#include "engine/sampling/sampler.h"

namespace kascade {
namespace {

// Rows by the row rule that one step may hold so that all selections kept at a time stay within
// `bytes`; at least one, so that every sequence advances.
int32_t row_rule_rows(const AttentionPolicy& policy, int32_t kv_heads, int32_t tokens,
                      int64_t bytes) {
  if (policy.selections() == 0) return 0;  // no limit
  const int64_t keys = std::max(1, policy.candidates(tokens, /*row=*/true).budget);
  const int64_t row_bytes = keys * kv_heads * policy.selections() * int64_t{sizeof(int32_t)};
  return static_cast<int32_t>(
      std::clamp<int64_t>(bytes / row_bytes, 1, std::numeric_limits<int32_t>::max()));
}

bool contains(const std::vector<Token>& tokens, Token token) {
  return std::ranges::find(tokens, token) != tokens.end();
}

}  // namespace

StepLoop::StepLoop(const SchedulerLimits& limits, int64_t max_selection_bytes,
                   Transformer& transformer, KvCache& cache, BlockAllocator& blocks,
                   StatsSink publish)
    : transformer_(transformer),
      cache_(cache),
      blocks_(blocks),
      scheduler_(limits, blocks,
                 {.features = [this](const Sequence& sequence, int32_t begin,
                                     int32_t end) { return features_of(sequence, begin, end); },
                  .seconds = [this](const StepFeatures& step) { return cost_.predict(step); }}),
      scorer_(transformer),
      max_selection_bytes_(max_selection_bytes),
      dense_(make_dense_policy()),
      generate_hidden_(DType::kF32, limits.max_sequences, transformer.config().hidden),
      generate_logits_(DType::kF32, limits.max_sequences, transformer.config().vocab),
      publish_(std::move(publish)) {
  refresh_stats();
}

std::shared_ptr<const AttentionPolicy> StepLoop::sparse_policy(const QueuedRequest& admission) {
  const Attention& asked = admission.request.attention;
  std::erase_if(policies_, [](const auto& entry) { return entry.second.expired(); });
  auto& cached = policies_[{admission.schedule.get(), asked.ratio.value_or(0), asked.baseline}];
  std::shared_ptr<const AttentionPolicy> policy = cached.lock();
  if (!policy) {
    policy = asked.baseline ? make_baseline_policy(*asked.baseline, transformer_.config().layers)
                            : make_kascade_policy(admission.schedule, asked.ratio);
    cached = policy;
  }
  return policy;
}

SequenceSpec StepLoop::spec_of(const ActiveRequest& live) const {
  const Request& request = live.admission.request;
  const auto size = static_cast<int32_t>(request.tokens.size());
  SequenceSpec spec{.tokens = request.tokens,
                    .max_tokens = size,
                    .prefill_end = size,
                    .branches = static_cast<int32_t>(live.policies.size()),
                    .priority = live.admission.priority,
                    .is_continuation = live.admission.is_continuation,
                    .deadline = request.deadline};
  if (const auto* generate = std::get_if<Generate>(&request.task)) {
    spec.generates = true;
    spec.max_tokens = static_cast<int32_t>(
        std::min<int64_t>(int64_t{size} + generate->max_new_tokens, transformer_.config().context));
  } else {
    const Score& score = std::get<Score>(request.task);
    spec.first_logit =
        live.admission.measure ? std::numeric_limits<int32_t>::max() : score.first_scored - 1;
    if (score.phase == Phase::kRow && !live.admission.measure)
      spec.prefill_end = score.first_scored;
  }
  spec.query_tile = live.policies.back()->rule().query_tile;
  spec.max_per_query_rows = row_rule_rows(*live.policies.back(), transformer_.config().kv_heads,
                                          spec.max_tokens, max_selection_bytes_);
  return spec;
}

absl::Status StepLoop::admit(QueuedRequest admission, absl::Time now) {
  ActiveRequest live;
  if (admission.measure) {
    live.policies = {admission.measure};
  } else {
    if (admission.mode != Mode::kSparse) live.policies.push_back(dense_);
    if (admission.mode != Mode::kDense) {
      live.policies.push_back(sparse_policy(admission));
    }
  }
  live.admission = std::move(admission);
  live.admitted = now;
  const SeqId id = live.admission.id;
  if (absl::Status status = scheduler_.admit(id, spec_of(live)); !status.ok()) return status;
  if (std::holds_alternative<Generate>(live.admission.request.task)) {
    stats_.prompt_tokens += static_cast<int64_t>(live.admission.request.tokens.size());
  }
  active_.emplace(id, std::move(live));
  refresh_stats();
  return absl::OkStatus();
}

void StepLoop::end(SeqId id, FinishReason reason, absl::Status status) {
  const auto found = active_.find(id);
  if (found == active_.end()) return;
  scheduler_.cancel(id);
  ActiveRequest live = std::move(found->second);
  active_.erase(found);
  live.finish = Finish{.reason = reason, .status = std::move(status)};
  Event event{.seq = id};
  refresh_stats();
  send(live, event);
}

void StepLoop::end_all(FinishReason reason, const absl::Status& status) {
  while (!active_.empty()) end(active_.begin()->first, reason, status);
}

bool StepLoop::step(const std::function<absl::Time()>& clock) {
  const absl::Time begin = clock();
  const StepPlan plan = scheduler_.plan(begin);
  for (const SeqId id : plan.expired) {
    end(id, FinishReason::kDeadline,
        absl::DeadlineExceededError(
            absl::StrCat("deadline passed after ",
                         absl::FormatDuration(begin - active_.at(id).admitted), " in the server")));
  }
  if (plan.empty()) {
    refresh_stats();
    return !plan.expired.empty();
  }
  const StepLayout layout = build_step(plan);
  for (const PlannedSlice& planned : layout.slices) {
    ActiveRequest& live = active_.at(planned.slice->seq);
    live.started = std::min(live.started, begin);
  }
  const StepFeatures features = features_of(plan);
  const Tensor hidden = transformer_.forward(layout.step, cache_);
  count_keys(layout);

  std::map<SeqId, Event> events;
  const std::vector<Outcome> outcomes = decide(layout, hidden, events);
  const absl::Time end = clock();
  for (const PlannedSlice& planned : layout.slices) {
    ActiveRequest& live = active_.at(planned.slice->seq);
    const bool prefilled = planned.slice->begin + planned.slice->count >=
                           static_cast<int32_t>(live.admission.request.tokens.size());
    if (prefilled) live.prefilled = std::min(live.prefilled, end);
  }
  record_step_time(plan, features, end - begin);
  const std::vector<SeqId> ended = scheduler_.commit(plan, outcomes);
  ++stats_.steps;
  stats_.rows += layout.step.batch.rows();
  stats_.last_step = end - begin;
  deliver(ended, events);
  return true;
}

StepLoop::StepLayout StepLoop::build_step(const StepPlan& plan) {
  StepLayout layout;
  std::vector<const AttentionPolicy*> order;
  for (const Slice& slice : plan.slices) {
    const AttentionPolicy* policy = active_.at(slice.seq).policies[slice.branch].get();
    if (std::ranges::find(order, policy) == order.end()) order.push_back(policy);
  }
  for (const AttentionPolicy* policy : order) {
    for (const Slice& slice : plan.slices) {
      if (active_.at(slice.seq).policies[slice.branch].get() != policy) continue;
      layout.slices.push_back({&slice, scheduler_.find(slice.seq), policy});
    }
  }
  layout.built = build_batch(layout.slices, blocks_.block_size());
  layout.step.batch = std::move(layout.built.batch);
  while (scratch_.size() < order.size()) scratch_.push_back(std::make_unique<PolicyState>());
  for (size_t i = 0; i < layout.slices.size(); ++i) {
    const TileRange tiles = layout.built.tiles[i];
    auto& groups = layout.step.groups;
    if (groups.empty() || groups.back().policy != layout.slices[i].policy) {
      groups.push_back({layout.slices[i].policy, tiles, scratch_[groups.size()].get()});
    } else {
      groups.back().tiles.count += tiles.count;
    }
  }
  return layout;
}

StepFeatures StepLoop::features_of(const Sequence& sequence, int32_t begin, int32_t end) const {
  const SequenceSpec& spec = sequence.spec;
  const int32_t first_logit = spec.generates ? static_cast<int32_t>(sequence.tokens.size()) - 1
                                             : std::max(spec.first_logit, sequence.delivered);
  StepFeatures sum;
  for (const auto& policy : active_.at(sequence.id).policies) {
    sum.rows += end - begin;
    sum.logit_rows += std::max(0, end - std::max(begin, first_logit));
    for_each_tile(*policy, spec.prefill_end, begin, end, [&](const TileSpan& tile) {
      const bool alone = tile.first == tile.last;
      for (int32_t layer = 0; layer < cache_.shape().layers; ++layer) {
        const KeyCounts keys = policy->count(layer, tile);
        (alone ? sum.row_keys_attended : sum.tile_keys_attended) +=
            static_cast<double>(keys.attended);
        (alone ? sum.row_keys_scored : sum.tile_keys_scored) += static_cast<double>(keys.scored);
      }
    });
  }
  return sum;
}

StepFeatures StepLoop::features_of(const StepPlan& plan) const {
  StepFeatures sum;
  for (const Slice& slice : plan.slices) {
    if (slice.branch != 0) continue;  // all branches are in the first's
    sum += features_of(*scheduler_.find(slice.seq), slice.begin, slice.begin + slice.count);
  }
  return sum;
}

// Calibration also measures, which other steps do not; nothing can be learned from its steps.
void StepLoop::record_step_time(const StepPlan& plan, const StepFeatures& features,
                                absl::Duration duration) {
  const bool measures = std::ranges::any_of(plan.slices, [&](const Slice& slice) {
    return active_.at(slice.seq).admission.measure != nullptr;
  });
  if (measures) return;
  const double seconds = absl::ToDoubleSeconds(duration);
  if (const auto predicted = cost_.predict(features)) {
    stats_.predicted_step_seconds += *predicted;
    stats_.measured_step_seconds += std::max(seconds, 0.0);
    stats_.step_prediction_error_seconds += std::abs(*predicted - seconds);
  }
  cost_.observe(features, seconds);
}

void StepLoop::count_keys(const StepLayout& layout) {
  const Batch& batch = layout.step.batch;
  const KvCacheShape& shape = cache_.shape();
  const int64_t row_bytes = shape.row_bytes();
  for (size_t i = 0; i < layout.slices.size(); ++i) {
    const auto& [slice, sequence, policy] = layout.slices[i];
    ActiveRequest& live = active_.at(slice->seq);
    const bool reported = slice->branch + 1 == static_cast<int32_t>(live.policies.size());
    const TileRange tiles = layout.built.tiles[i];
    for (int32_t tile = tiles.begin; tile < tiles.begin + tiles.count; ++tile) {
      const TileSpan span{batch.positions[batch.tile_start[tile]],
                          batch.positions[batch.tile_start[tile + 1] - 1],
                          batch.positions[batch.tile_start[tile]] >= sequence->spec.prefill_end};
      const bool first_time = reported && span.first >= live.counted_until;
      for (int32_t layer = 0; layer < shape.layers; ++layer) {
        const KeyCounts keys = policy->count(layer, span);
        const auto role = static_cast<size_t>(policy->role(layer));
        stats_.keys_attended[role] += keys.attended * shape.kv_heads;
        stats_.keys_scored[role] += keys.scored * shape.kv_heads;
        stats_.keys_causal += keys.causal * shape.kv_heads;
        if (!first_time) continue;
        live.counts.causal += keys.causal * shape.kv_heads;
        live.counts.attended += keys.attended * shape.kv_heads;
        live.counts.scored += keys.scored * shape.kv_heads;
        live.counts.kv_bytes_read += keys.kv_rows_read * shape.kv_heads * row_bytes;
        live.counts.dense_kv_bytes_read += 2 * keys.causal * shape.kv_heads * row_bytes;
      }
      if (first_time) live.counts.positions += span.last - span.first + 1;
    }
    if (reported) live.counted_until = std::max(live.counted_until, slice->begin + slice->count);
  }
}

std::vector<Outcome> StepLoop::decide(const StepLayout& layout, Tensor hidden,
                                      std::map<SeqId, Event>& events) {
  std::vector<Outcome> outcomes;
  for (size_t i = 0; i < layout.slices.size(); ++i) {
    const Slice& slice = *layout.slices[i].slice;
    const ActiveRequest& live = active_.at(slice.seq);
    Event& event = events[slice.seq];
    event.seq = slice.seq;
    event.computed_tokens = slice.begin + slice.count;
    if (live.admission.measure || slice.branch != 0 || layout.built.logits[i].count == 0) continue;
    if (std::holds_alternative<Score>(live.admission.request.task)) {
      score(layout, i, hidden, outcomes, event);
    }
  }
  generate(layout, hidden, outcomes, events);
  return outcomes;
}

void StepLoop::generate(const StepLayout& layout, Tensor hidden, std::vector<Outcome>& outcomes,
                        std::map<SeqId, Event>& events) {
  std::vector<SeqId> ids;
  for (size_t i = 0; i < layout.slices.size(); ++i) {
    const Slice& slice = *layout.slices[i].slice;
    const LogitSpan span = layout.built.logits[i];
    if (span.count == 0 || !layout.slices[i].sequence->spec.generates) continue;
    std::memcpy(generate_hidden_.view().f32(static_cast<int64_t>(ids.size())),
                hidden.f32(span.first), hidden.cols * sizeof(float));
    ids.push_back(slice.seq);
  }
  if (ids.empty()) return;
  const auto rows = static_cast<int64_t>(ids.size());
  transformer_.logits(generate_hidden_.first_rows(rows), generate_logits_.first_rows(rows));
  for (int64_t row = 0; row < rows; ++row) {
    const SeqId id = ids[row];
    auto outcome = sample_row(id, generate_logits_.view().slice_rows(row, 1), events[id]);
    if (outcome.has_value()) outcomes.push_back(*outcome);
  }
}

std::optional<Outcome> StepLoop::sample_row(SeqId id, Tensor logits, Event& event) {
  ActiveRequest& live = active_.at(id);
  const Request& request = live.admission.request;
  const Generate& params = std::get<Generate>(request.task);
  absl::StatusOr<ScoredToken> drawn =
      sample({logits.f32(0), static_cast<size_t>(logits.cols)}, params, request.tokens,
             live.generated, live.generated.size());
  if (!drawn.ok()) {
    live.finish = Finish{.reason = FinishReason::kError, .status = drawn.status()};
    return Outcome{.seq = id, .generated = {}, .finished = true};
  }
  const Token token = drawn->token;
  live.generated.push_back(token);
  ++stats_.generated_tokens;
  event.tokens.push_back(*std::move(drawn));
  const auto total = static_cast<int32_t>(request.tokens.size() + live.generated.size());
  if (contains(params.stop_tokens, token)) {
    live.finish = Finish{.reason = FinishReason::kStopToken};
  } else if (static_cast<int32_t>(live.generated.size()) >= params.max_new_tokens) {
    live.finish = Finish{.reason = FinishReason::kMaxTokens};
  } else if (total >= transformer_.config().context) {
    live.finish = Finish{.reason = FinishReason::kContextLength};
  }
  return Outcome{.seq = id, .generated = token, .finished = live.finish.has_value()};
}

void StepLoop::score(const StepLayout& layout, size_t index, Tensor hidden,
                     std::vector<Outcome>& outcomes, Event& event) {
  const Slice& slice = *layout.slices[index].slice;
  const LogitSpan span = layout.built.logits[index];
  ActiveRequest& live = active_.at(slice.seq);
  const Score& task = std::get<Score>(live.admission.request.task);
  const std::span<const Token> tokens = live.admission.request.tokens;
  const auto targets = tokens.subspan(span.first_position + 1, span.count);
  const ScoreOptions options{task.want_ranks, task.top_logprobs};
  const Tensor rows = hidden.slice_rows(span.first, span.count);
  absl::Status status;
  if (live.admission.mode == Mode::kCompare) {
    const auto twin = std::ranges::find_if(layout.slices, [&](const PlannedSlice& other) {
      return other.slice->seq == slice.seq && other.slice->branch == 1;
    });
    const LogitSpan other = layout.built.logits[twin - layout.slices.begin()];
    auto compared = scorer_.compare(rows, hidden.slice_rows(other.first, other.count), targets,
                                    span.first_position + 1, options);
    status = compared.status();
    if (status.ok()) {
      event.tokens = std::move(compared->dense);
      event.comparisons = std::move(compared->comparisons);
    }
  } else {
    auto scored = scorer_.score(rows, targets, span.first_position + 1, options);
    status = scored.status();
    if (status.ok()) event.tokens = *std::move(scored);
  }
  stats_.scored_tokens += static_cast<int64_t>(event.tokens.size());
  if (status.ok()) return;
  live.finish = Finish{.reason = FinishReason::kError, .status = std::move(status)};
  outcomes.push_back({.seq = slice.seq, .generated = {}, .finished = true});
}

void StepLoop::deliver(std::span<const SeqId> ended, std::map<SeqId, Event>& events) {
  std::vector<ActiveRequest> finished;
  for (const SeqId id : ended) {
    const auto found = active_.find(id);
    KASCADE_CHECK(found != active_.end());
    if (!found->second.finish) found->second.finish = Finish{.reason = FinishReason::kCompleted};
    finished.push_back(std::move(found->second));
    active_.erase(found);
  }
  refresh_stats();
  // A sink may ask for the stats or cancel; both see the state after this step.
  for (auto& [id, event] : events) {
    if (const auto found = active_.find(id); found != active_.end()) send(found->second, event);
  }
  for (ActiveRequest& live : finished) send(live, events.at(live.admission.id));
}

void StepLoop::send(ActiveRequest& live, Event& event) {
  if (live.finish) {
    live.finish->counts = live.counts;
    live.finish->mode = live.admission.mode;
    if (live.admission.schedule) live.finish->schedule_id = live.admission.schedule->schedule_id;
    const absl::Time started = std::min(live.started, live.prefilled);
    if (live.started != absl::InfiniteFuture()) live.finish->queued = started - live.admitted;
    if (live.prefilled != absl::InfiniteFuture()) {
      live.finish->prefill = live.prefilled - live.started;
    }
    event.finish = std::move(live.finish);
  }
  live.admission.sink(event);
}

void StepLoop::refresh_stats() {
  stats_.preemptions = scheduler_.preemptions();
  stats_.running = scheduler_.running();
  stats_.waiting = scheduler_.waiting();
  stats_.waiting_background = scheduler_.waiting(Priority::kBackground);
  stats_.waiting_tokens = scheduler_.waiting_tokens();
  stats_.total_blocks = blocks_.total_blocks();
  stats_.free_blocks = blocks_.free_blocks();
  stats_.block_size = blocks_.block_size();
  publish_(stats_);
}

}  // namespace kascade
