#include "engine/calibration.h"

#include <algorithm>
#include <cmath>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "engine/calibration_windows.h"
#include "engine/check.h"
#include "engine/engine_impl.h"

namespace kascade {
namespace {

using Progress = std::function<void(const CalibrationProgress&)>;

// ---- Running windows through the engine
// ----------------------------------------------------------

// Waits for a set of sequences; the sinks run on the engine's thread.
class Gathering {
 public:
  EventSink sink(std::function<void(const Event&)> on_event) {
    return [this, on_event = std::move(on_event)](const Event& event) {
      const std::lock_guard lock(mutex_);
      on_event(event);
      if (!event.finish) return;
      if (!event.finish->status.ok()) status_.Update(event.finish->status);
      ++finished_;
      changed_.notify_all();
    };
  }

  // Waits until `ids` have all finished; cancels them once `stop` is set.
  absl::Status wait(Engine& engine, const std::vector<SeqId>& ids, const std::atomic<bool>& stop) {
    std::unique_lock lock(mutex_);
    bool cancelled = false;
    while (finished_ < ids.size()) {
      changed_.wait_for(lock, std::chrono::milliseconds(50));
      if (cancelled || !stop) continue;
      cancelled = true;
      lock.unlock();
      for (const SeqId id : ids) engine.cancel(id);
      lock.lock();
    }
    if (cancelled) return absl::CancelledError("the calibration was cancelled");
    return status_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  size_t finished_ = 0;
  absl::Status status_;
};

// Over the scored tokens of dense and sparse runs of the same windows.
struct ComparedSums {
  int64_t tokens = 0, same_top1 = 0;
  double dense = 0, sparse = 0, kl = 0;  // −log p of the two, and KL(dense ‖ sparse), nats
  AttentionCounts counts{};
};

// The layer before `layer` whose keys serve it best; ties → lowest.
int32_t best_source(const Similarity& similarity, int32_t layer) {
  int32_t best = 0;
  for (int32_t source = 1; source < layer; ++source) {
    if (similarity.layer(source, layer) > similarity.layer(best, layer)) best = source;
  }
  return best;
}

class Job {
 public:
  Job(Engine& engine, const CalibrationOptions& options, const Progress& progress,
      const std::atomic<bool>& stop, Measurement* last)
      : engine_(engine), options_(options), progress_(progress), stop_(stop), last_(last) {}

  absl::StatusOr<CalibrationOutcome> run(const Texts& texts);

 private:
  bool weighs() const {
    return options_.maker == Maker::kOptimal && options_.weight == PlanWeight::kLoss;
  }
  SimilarityKind kind() const;
  absl::StatusOr<Similarity> measure(const Texts& windows);
  // Measures and weighs, or takes what was measured last on the same text in the same way.
  absl::StatusOr<Similarity> similarity(const Texts& windows, const SplitTexts& parts,
                                        const WindowRule& rule);
  std::vector<int32_t> dense_layers(const Similarity& similarity) const;
  // `note` says what could not be done as asked.
  std::vector<std::vector<LayerPlan>> plan(const Similarity& similarity, std::string& note) const;
  // Fills similarity.weight.
  absl::Status weigh(const Texts& windows, const SplitTexts& parts, const Texts& probes,
                     Similarity& similarity);
  absl::StatusOr<ComparedSums> compare(const std::shared_ptr<const Schedule>& schedule,
                                       const Texts& windows,
                                       const std::function<void(int64_t)>& done);
  absl::StatusOr<GateResult> gate(const std::shared_ptr<const Schedule>& schedule,
                                  const Texts& windows, int64_t done, int64_t total);
  Schedule draft(const Texts& windows, const SplitTexts& parts,
                 std::vector<LayerPlan> layers) const;
  void report(CalibrationStage stage, int64_t done, int64_t total, int32_t anchors = 0) const {
    progress_({stage, done, total, anchors});
  }

  Engine& engine_;
  const CalibrationOptions& options_;
  const Progress& progress_;
  const std::atomic<bool>& stop_;
  Measurement* last_;
};

SimilarityKind Job::kind() const {
  if (options_.maker == Maker::kGreedy) return SimilarityKind::kJaccard;
  return options_.published_head_map_slip ? SimilarityKind::kRecalledMassWithSlip
                                          : SimilarityKind::kRecalledMass;
}

absl::StatusOr<Similarity> Job::measure(const Texts& windows) {
  const ModelConfig& model = engine_.model();
  const RecorderShape shape{model.layers, model.kv_heads, model.group()};
  Gathering gathering;
  std::vector<std::shared_ptr<SimilarityRecorder>> recorders;
  std::vector<SeqId> ids;
  std::vector<int64_t> done(windows.size(), 0);
  const int64_t total = count_tokens(windows);
  absl::Status submitted;
  for (size_t i = 0; i < windows.size() && submitted.ok(); ++i) {
    recorders.push_back(std::make_shared<SimilarityRecorder>(
        options_.selection, kind(), shape, static_cast<int32_t>(windows[i].size()) - 1));
    auto sink = gathering.sink([this, &done, i, total](const Event& event) {
      done[i] = std::max<int64_t>(done[i], event.computed_tokens);
      int64_t sum = 0;
      for (const int64_t tokens : done) sum += tokens;
      report(CalibrationStage::kMeasuring, sum, total);
    });
    auto id = engine_.impl().enqueue({.request = {.tokens = windows[i], .task = Score{}},
                                      .mode = Mode::kDense,
                                      .measure = recorders.back(),
                                      .priority = Priority::kBackground,
                                      .sink = std::move(sink)});
    if (id.ok()) ids.push_back(*id);
    submitted = id.status();
  }
  if (!submitted.ok()) {
    for (const SeqId id : ids) engine_.cancel(id);
  }
  absl::Status finished = gathering.wait(engine_, ids, stop_);
  if (!submitted.ok()) return submitted;
  if (!finished.ok()) return finished;
  std::vector<Similarity> measured;
  for (const auto& recorder : recorders) measured.push_back(recorder->window_similarity());
  return mean_similarity(measured);
}

std::vector<int32_t> Job::dense_layers(const Similarity& similarity) const {
  std::vector<int32_t> dense = options_.dense_layers;
  if (!options_.auto_dense_layers) return dense;
  for (int32_t layer = 1; layer < similarity.layers(); ++layer) {
    if (similarity.self_recall[layer] < options_.min_recall) dense.push_back(layer);
  }
  return dense;
}

std::vector<std::vector<LayerPlan>> Job::plan(const Similarity& similarity,
                                              std::string& note) const {
  const std::vector<int32_t> dense = dense_layers(similarity);
  if (options_.maker == Maker::kGreedy) return {plan_greedy(similarity, options_.greedy, dense)};
  std::vector<std::vector<LayerPlan>> plans = plan_optimal(similarity, dense);
  if (options_.anchors == 0) return plans;
  const auto most = static_cast<int32_t>(plans.size());
  if (options_.anchors > most) {
    note = absl::StrCat("anchors: ", options_.anchors, " were asked for, ", most,
                        " is the most: ", similarity.layers() - most, " of ", similarity.layers(),
                        " layers stay dense, as dense_layers names them or as their own budget "
                        "recalls less than ",
                        100 * options_.min_recall, " % of their attention");
  }
  return {std::move(plans[std::min(options_.anchors, most) - 1])};
}

// Dense and sparse in one pass, every position by the row rule. `done` hears how many tokens are.
absl::StatusOr<ComparedSums> Job::compare(const std::shared_ptr<const Schedule>& schedule,
                                          const Texts& windows,
                                          const std::function<void(int64_t)>& done) {
  ComparedSums sums;
  Gathering gathering;
  std::vector<SeqId> ids;
  absl::Status submitted;
  for (const std::vector<Token>& window : windows) {
    auto sink = gathering.sink([&](const Event& event) {
      for (const ScoredToken& token : event.tokens) sums.dense -= token.logprob;
      for (const Comparison& token : event.comparisons) {
        sums.sparse -= token.sparse.logprob;
        sums.kl += token.kl;
        sums.same_top1 += token.same_top1;
      }
      sums.tokens += static_cast<int64_t>(event.tokens.size());
      if (event.finish) sums.counts += event.finish->counts;
      done(sums.tokens);
    });
    Request request{.tokens = window, .task = Score{}};
    request.attention.mode = Mode::kCompare;
    auto id = engine_.submit(std::move(request), {.schedule = schedule, .background = true},
                             std::move(sink));
    if (id.ok()) ids.push_back(*id);
    submitted = id.status();
    if (!submitted.ok()) break;
  }
  if (!submitted.ok()) {
    for (const SeqId id : ids) engine_.cancel(id);
  }
  absl::Status finished = gathering.wait(engine_, ids, stop_);
  if (!submitted.ok()) return submitted;
  if (!finished.ok()) return finished;
  return sums;
}

// A layer's weight is the KL that its reuse alone costs, per square of the recall that it loses by
// it (small errors of a distribution cost their square); what selecting costs anyway is taken off.
// No layer is free: on so few tokens a cost near 0 is chance, and so is a recall near 1.
absl::Status Job::weigh(const Texts& windows, const SplitTexts& parts, const Texts& probes,
                        Similarity& similarity) {
  constexpr double kLeastLost = 1e-2;   // of the recall
  constexpr double kLeastShare = 1e-2;  // of the mean cost
  similarity.forget_weights();
  const std::vector<LayerPlan> all = plan_optimal(similarity, dense_layers(similarity)).back();
  const int32_t layers = similarity.layers();
  const int64_t each = count_tokens(probes), total = each * layers;
  std::vector<double> losses(static_cast<size_t>(layers), 0);
  for (int32_t layer = 0; layer < layers; ++layer) {
    std::vector<LayerPlan> plan = all;  // for layer 0 all layers select
    if (layer > 0 && all[layer].role == Role::kDense) continue;
    if (layer > 0) plan[layer] = reuse_layer(similarity, layer, best_source(similarity, layer));
    const auto schedule = std::make_shared<Schedule>(draft(windows, parts, std::move(plan)));
    const auto sums = compare(schedule, probes, [&](int64_t tokens) {
      report(CalibrationStage::kWeighing, each * layer + tokens, total);
    });
    if (!sums.ok()) return sums.status();
    losses[layer] = sums->kl / static_cast<double>(sums->tokens);
  }
  double sum = 0;
  int32_t measured = 0;
  for (int32_t layer = 1; layer < layers; ++layer) {
    if (all[layer].role == Role::kDense) continue;
    similarity.reuse_cost[layer] = std::max(0.0, losses[layer] - losses[0]);
    sum += similarity.reuse_cost[layer].value_or(0);
    ++measured;
  }
  similarity.weight.assign(static_cast<size_t>(layers), 0);
  for (int32_t layer = 1; layer < layers; ++layer) {
    if (!similarity.reuse_cost[layer]) continue;
    const double lost =
        std::max(kLeastLost, 1 - similarity.layer(best_source(similarity, layer), layer));
    const double cost =
        std::max(similarity.reuse_cost[layer].value_or(0), kLeastShare * sum / measured);
    similarity.weight[layer] = cost / (lost * lost);
  }
  return absl::OkStatus();
}

absl::StatusOr<Similarity> Job::similarity(const Texts& windows, const SplitTexts& parts,
                                           const WindowRule& rule) {
  Measurement now{.texts = token_digest(parts.measured),
                  .window_tokens = rule.window_tokens,
                  .selection = options_.selection,
                  .kind = kind()};
  if (last_ != nullptr && last_->same_as(now)) {
    now = *last_;
  } else {
    auto measured = measure(windows);
    if (!measured.ok()) return measured.status();
    now.similarity = *std::move(measured);
  }
  Similarity& similarity = now.similarity;
  const std::vector<int32_t> dense = dense_layers(similarity);
  if (weighs() && now.weighed_beside != dense) {
    const Texts probes = weighing_windows(parts.measured, rule);
    if (auto status = weigh(windows, parts, probes, similarity); !status.ok()) return status;
    now.weighed_beside = dense;
  }
  if (last_ != nullptr) *last_ = now;
  if (!weighs()) similarity.forget_weights();
  return similarity;
}

absl::StatusOr<GateResult> Job::gate(const std::shared_ptr<const Schedule>& schedule,
                                     const Texts& windows, int64_t done, int64_t total) {
  GateResult result{.anchors = 0, .predicted_similarity = predicted_similarity(schedule->layers)};
  for (const LayerPlan& layer : schedule->layers) result.anchors += layer.role == Role::kAnchor;
  ++result.anchors;  // layer 0 selects too
  const auto compared = compare(schedule, windows, [&](int64_t tokens) {
    report(CalibrationStage::kGating, done + tokens, total, result.anchors);
  });
  if (!compared.ok()) return compared.status();
  const ComparedSums& sums = *compared;

  const auto tokens = static_cast<double>(sums.tokens);
  const double dense_nll = sums.dense / tokens;
  QualityRecord& quality = result.quality;
  quality.protocol = absl::StrCat("held-out windows of at most ", options_.window_tokens,
                                  " tokens, the tokenizer's prefix in front, all positions scored");
  quality.tokens = sums.tokens;
  quality.dense_perplexity = std::exp(dense_nll);
  quality.sparse_perplexity = std::exp(sums.sparse / tokens);
  quality.degradation_percent = 100 * (std::exp((sums.sparse - sums.dense) / tokens) - 1);
  quality.mean_kl = sums.kl / tokens;
  quality.same_top1 = static_cast<double>(sums.same_top1) / tokens;
  const auto causal = static_cast<double>(sums.counts.causal);
  quality.keys_attended_ratio = static_cast<double>(sums.counts.attended) / causal;
  quality.keys_scored_ratio = static_cast<double>(sums.counts.scored) / causal;
  const auto positions = static_cast<double>(sums.counts.positions);
  quality.kv_bytes_read_per_token = static_cast<double>(sums.counts.kv_bytes_read) / positions;
  quality.dense_kv_bytes_read_per_token =
      static_cast<double>(sums.counts.dense_kv_bytes_read) / positions;
  quality.max_degradation_percent = options_.max_degradation_percent;
  quality.suspect = dense_nll > std::log(static_cast<double>(engine_.model().vocab)) - 1;
  const bool sparse = sums.counts.attended < sums.counts.causal;
  quality.passed = sparse && !quality.suspect && std::isfinite(quality.sparse_perplexity) &&
                   quality.degradation_percent <= options_.max_degradation_percent;
  return result;
}

Schedule Job::draft(const Texts& windows, const SplitTexts& parts,
                    std::vector<LayerPlan> layers) const {
  Schedule schedule;
  schedule.model = engine_.identity();
  schedule.selection = options_.selection;
  schedule.layers = std::move(layers);
  CalibrationRecord& record = schedule.calibration;
  record.maker = options_.maker == Maker::kOptimal ? "dp" : "greedy";
  record.requested = RequestedPlan{options_.anchors, options_.dense_layers,
                                   options_.auto_dense_layers, options_.min_recall};
  record.published_head_map_slip = options_.published_head_map_slip;
  record.weighted_by_loss = weighs();
  record.data_digest = token_digest(parts.measured);
  record.held_out_digest = token_digest(parts.held_out);
  record.windows = static_cast<int32_t>(windows.size());
  record.window_tokens = std::min(options_.window_tokens, engine_.model().context);
  record.tokens = count_tokens(windows);
  if (options_.maker == Maker::kGreedy) {
    record.threshold = options_.greedy.threshold;
    record.max_reuse_dist = options_.greedy.max_reuse_dist;
  }
  return schedule;
}

absl::StatusOr<CalibrationOutcome> Job::run(const Texts& texts) {
  const absl::Time begin = absl::Now();
  auto parts = split_texts(texts);
  if (!parts.ok()) return parts.status();
  // A gate window runs in two branches, so it may take half of the cache.
  const EngineStats stats = engine_.stats();
  const int32_t cache_tokens = stats.total_blocks * stats.block_size;
  WindowRule window_rule{options_.selection, options_.window_tokens,
                         std::min(engine_.model().context, cache_tokens),
                         engine_.tokenizer().prefix_tokens()};
  auto windows = measured_windows(parts->measured, window_rule);
  if (!windows.ok()) return windows.status();
  window_rule.context = std::min(engine_.model().context, cache_tokens / 2);
  auto gate_windows = held_out_windows(parts->held_out, window_rule);
  if (!gate_windows.ok()) return gate_windows.status();
  const auto similarity = this->similarity(*windows, *parts, window_rule);
  if (!similarity.ok()) return similarity.status();
  report(CalibrationStage::kPlanning, 0, 0);
  CalibrationOutcome outcome;
  std::vector<std::vector<LayerPlan>> plans = plan(*similarity, outcome.note);
  for (int32_t a = 0; a < similarity->layers(); ++a) {
    outcome.similarity.push_back({1.0});
    for (int32_t b = a + 1; b < similarity->layers(); ++b) {
      outcome.similarity.back().push_back(std::clamp(similarity->layer(a, b), 0.0, 1.0));
    }
  }

  const int64_t gate_tokens = count_tokens(*gate_windows);
  const int64_t total = gate_tokens * static_cast<int64_t>(plans.size());
  std::optional<Schedule> best;
  for (size_t i = 0; i < plans.size(); ++i) {
    auto schedule = std::make_shared<Schedule>(draft(*windows, *parts, std::move(plans[i])));
    auto result = gate(schedule, *gate_windows, gate_tokens * static_cast<int64_t>(i), total);
    if (!result.ok()) return result.status();
    schedule->quality = result->quality;
    outcome.table.push_back(*result);
    const bool better = !best || result->quality.passed ||
                        result->quality.degradation_percent < best->quality.degradation_percent;
    if (better) best = *schedule;
    if (result->quality.passed) break;
  }
  KASCADE_CHECK(best.has_value());  // a maker gives at least one plan
  outcome.schedule = *std::move(best);
  outcome.schedule.created_at =
      absl::FormatTime("%Y-%m-%dT%H:%M:%SZ", absl::Now(), absl::UTCTimeZone());
  outcome.schedule.calibration.duration_seconds = absl::ToDoubleSeconds(absl::Now() - begin);
  seal(outcome.schedule);
  report(CalibrationStage::kDone, total, total);
  return outcome;
}

}  // namespace

bool Measurement::same_as(const Measurement& other) const {
  return texts == other.texts && window_tokens == other.window_tokens &&
         selection == other.selection && kind == other.kind;
}

absl::StatusOr<CalibrationOutcome> calibrate(Engine& engine, const CalibrationOptions& options,
                                             const Texts& texts, const Progress& progress,
                                             const std::atomic<bool>& stop, Measurement* last) {
  if (absl::Status status = validate(options, engine.model()); !status.ok()) return status;
  return Job(engine, options, progress, stop, last).run(texts);
}

}  // namespace kascade
