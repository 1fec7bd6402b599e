#include "engine/calibration/calibration.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "engine/calibration/schedule_search.h"
#include "engine/calibration/window_runs.h"
#include "engine/calibration/windows.h"
#include "engine/quality/standard_error.h"

namespace kascade {
namespace {

using Progress = std::function<void(const CalibrationProgress&)>;

// The layer before `layer` whose keys serve it best; ties → lowest.
int32_t best_source(const Similarity& similarity, int32_t layer) {
  int32_t best = 0;
  for (int32_t source = 1; source < layer; ++source) {
    if (similarity.layer(source, layer) > similarity.layer(best, layer)) best = source;
  }
  return best;
}

// What the texts give: windows to measure, to weigh layers on, and to gate on.
struct Windows {
  WindowSettings measuring_rule{}, gating_rule{};
  std::string measured_digest{}, held_out_digest{};  // of the whole texts
  Texts measuring{}, weighing{}, gating{};
};

class Job {
 public:
  Job(Engine& engine, const CalibrationOptions& options, const Progress& progress,
      const std::atomic<bool>& stop, Measurement* last)
      : engine_(engine), options_(options), progress_(progress), runs_(engine, stop), last_(last) {}

  absl::StatusOr<CalibrationOutcome> run(const Texts& texts);

 private:
  bool weighs() const {
    return options_.planner == Planner::kDynamicProgramming && options_.weight == LayerCost::kLoss;
  }
  bool automatic() const {
    return options_.planner == Planner::kDynamicProgramming && options_.anchors == 0;
  }
  // Whether a layer may stay dense for what its own choice costs; a tile anchor attends to all keys
  // as it is.
  bool measures_selection_loss() const {
    return automatic() && weighs() && options_.selection.family == Family::kKascade;
  }
  SimilarityKind kind() const;
  // Fills windows_.
  absl::Status cut(const Texts& texts);
  // Measures and weighs, or takes what was measured last on the same text in the same way.
  absl::StatusOr<Similarity> similarity();
  std::vector<int32_t> dense_layers(const Similarity& similarity) const;
  // As many selecting layers as asked for, or the greedy plan; `note` says if there are fewer.
  std::vector<LayerSchedule> plan(const Similarity& similarity, std::string& note) const;
  // KL from dense attention, nats per token: of `all`, a plan in which layers select, and of it
  // with one layer changed.
  struct Losses {
    double whole = 0;
    std::vector<double> reusing{};  // [layers] the layer reuses what serves it best
    std::vector<double> dense{};    // [layers] the layer is dense; if that is asked for
  };
  absl::StatusOr<Losses> measure_losses(const Similarity& similarity,
                                        const std::vector<LayerSchedule>& all);
  // Fills similarity.weight and, for an automatic plan, .select_cost.
  absl::Status weigh(Similarity& similarity);
  // Tries plans for the one that reads least of those that pass.
  absl::Status search(const Similarity& similarity, CalibrationOutcome& outcome);
  // Adds to outcome.table; outcome.schedule becomes what passed, or is better than all before.
  absl::Status gate(std::vector<LayerSchedule> plan, CalibrationOutcome& outcome);
  absl::StatusOr<QualityCheckResult> gate(const std::shared_ptr<const Schedule>& schedule,
                                          int64_t done, int64_t total);
  Schedule draft(std::vector<LayerSchedule> layers) const;
  void report(CalibrationStage stage, int64_t done, int64_t total, int32_t anchors = 0) const {
    progress_({stage, done, total, anchors});
  }

  Engine& engine_;
  const CalibrationOptions& options_;
  const Progress& progress_;
  WindowRuns runs_;
  Measurement* last_;
  Windows windows_;
};

SimilarityKind Job::kind() const {
  if (options_.planner == Planner::kGreedy) return SimilarityKind::kJaccard;
  return options_.published_head_map_slip ? SimilarityKind::kRecalledMassWithSlip
                                          : SimilarityKind::kRecalledMass;
}

std::vector<int32_t> Job::dense_layers(const Similarity& similarity) const {
  std::vector<int32_t> dense = options_.dense_layers;
  if (!options_.auto_dense_layers) return dense;
  for (int32_t layer = 1; layer < similarity.layers(); ++layer) {
    if (similarity.self_recall[layer] < options_.min_recall) dense.push_back(layer);
  }
  return dense;
}

std::vector<LayerSchedule> Job::plan(const Similarity& similarity, std::string& note) const {
  const std::vector<int32_t> dense = dense_layers(similarity);
  if (options_.planner == Planner::kGreedy)
    return greedy_schedule(similarity, options_.greedy, dense);
  std::vector<std::vector<LayerSchedule>> plans =
      schedules_by_dynamic_programming(similarity, dense);
  const auto most = static_cast<int32_t>(plans.size());
  if (options_.anchors > most) {
    note = absl::StrCat("anchors: ", options_.anchors, " were asked for, ", most,
                        " is the most: ", similarity.layers() - most, " of ", similarity.layers(),
                        " layers stay dense, as dense_layers names them or as their own budget "
                        "recalls less than ",
                        100 * options_.min_recall, " % of their attention");
  }
  return std::move(plans[std::min(options_.anchors, most) - 1]);
}

absl::StatusOr<Job::Losses> Job::measure_losses(const Similarity& similarity,
                                                const std::vector<LayerSchedule>& all) {
  const auto layers = static_cast<int32_t>(all.size());
  int64_t done = 0;
  const auto loss_of = [&](std::vector<LayerSchedule> plan) -> absl::StatusOr<double> {
    const int64_t each = count_tokens(windows_.weighing);
    const int64_t total = each * layers * (measures_selection_loss() ? 2 : 1);
    const auto schedule = std::make_shared<Schedule>(draft(std::move(plan)));
    const auto sums = runs_.compare(schedule, windows_.weighing, [&](int64_t tokens) {
      report(CalibrationStage::kMeasuringCosts, done + tokens, total);
    });
    done += each;
    if (!sums.ok()) return sums.status();
    return sums->kl / static_cast<double>(sums->tokens);
  };
  const auto whole = loss_of(all);
  if (!whole.ok()) return whole.status();
  Losses losses{.whole = *whole,
                .reusing = std::vector<double>(all.size(), *whole),
                .dense = std::vector<double>(all.size(), *whole)};
  for (int32_t layer = 1; layer < layers; ++layer) {
    if (all[layer].role == Role::kDense) continue;
    std::vector<LayerSchedule> plan = all;
    plan[layer] = reuse_layer(similarity, layer, best_source(similarity, layer));
    const auto reusing = loss_of(plan);
    if (!reusing.ok()) return reusing.status();
    losses.reusing[layer] = *reusing;
    if (!measures_selection_loss()) continue;
    plan[layer] = all[layer];
    plan[layer].role = Role::kDense;
    const auto dense = loss_of(std::move(plan));
    if (!dense.ok()) return dense.status();
    losses.dense[layer] = *dense;
  }
  return losses;
}

// A layer's weight is the KL that its reuse alone costs, per square of the recall that it loses by
// it (small errors of a distribution cost their square); what selecting costs anyway is taken off.
// No layer is free: on so few tokens a cost near 0 is chance, and so is a recall near 1.
absl::Status Job::weigh(Similarity& similarity) {
  constexpr double kLeastLost = 1e-2;   // of the recall
  constexpr double kLeastShare = 1e-2;  // of the mean cost
  similarity.forget_weights();
  const std::vector<LayerSchedule> all =
      schedules_by_dynamic_programming(similarity, dense_layers(similarity)).back();
  const auto losses = measure_losses(similarity, all);
  if (!losses.ok()) return losses.status();
  double sum = 0;
  int32_t measured = 0;
  const auto layers = static_cast<int32_t>(all.size());
  if (measures_selection_loss()) similarity.select_cost.assign(all.size(), 0);
  for (int32_t layer = 1; layer < layers; ++layer) {
    if (all[layer].role == Role::kDense) continue;
    similarity.reuse_cost[layer] = std::max(0.0, losses->reusing[layer] - losses->whole);
    if (measures_selection_loss()) {
      similarity.select_cost[layer] = std::max(0.0, losses->whole - losses->dense[layer]);
    }
    sum += similarity.reuse_cost[layer].value_or(0);
    ++measured;
  }
  similarity.weight.assign(all.size(), 0);
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

absl::StatusOr<Similarity> Job::similarity() {
  Measurement now{.texts = windows_.measured_digest,
                  .window_tokens = windows_.measuring_rule.rows(),
                  .selection = options_.selection,
                  .kind = kind()};
  if (last_ != nullptr && last_->same_as(now)) {
    now = *last_;
  } else {
    const int64_t total = count_tokens(windows_.measuring);
    auto measured =
        runs_.measure(options_.selection, kind(), windows_.measuring,
                      [&](int64_t tokens) { report(CalibrationStage::kMeasuring, tokens, total); });
    if (!measured.ok()) return measured.status();
    now.similarity = *std::move(measured);
  }
  Similarity& similarity = now.similarity;
  const std::vector<int32_t> dense = dense_layers(similarity);
  const bool lacks_costs = measures_selection_loss() && similarity.select_cost.empty();
  if (weighs() && (now.measured_with_dense_layers != dense || lacks_costs)) {
    if (auto status = weigh(similarity); !status.ok()) return status;
    now.measured_with_dense_layers = dense;
  }
  if (last_ != nullptr) *last_ = now;
  if (!weighs()) similarity.forget_weights();
  return similarity;
}

absl::StatusOr<QualityCheckResult> Job::gate(const std::shared_ptr<const Schedule>& schedule,
                                             int64_t done, int64_t total) {
  QualityCheckResult result{.anchors = 0,
                            .predicted_similarity = predicted_similarity(schedule->layers)};
  result.anchors = schedule->count(Role::kAnchor) + 1;  // layer 0 selects too
  result.dense_layers = schedule->count(Role::kDense) - 1;
  const auto compared = runs_.compare(schedule, windows_.gating, [&](int64_t tokens) {
    report(CalibrationStage::kCheckingQuality, done + tokens, total, result.anchors);
  });
  if (!compared.ok()) return compared.status();
  const ComparedSums& sums = *compared;

  const auto tokens = static_cast<double>(sums.tokens);
  const double dense_nll = sums.dense / tokens;
  QualityRecord& quality = result.quality;
  quality.protocol = absl::StrCat("held-out windows of at most ", windows_.gating_rule.rows(),
                                  " tokens, the tokenizer's prefix in front, all positions scored");
  quality.tokens = sums.tokens;
  quality.dense_perplexity = std::exp(dense_nll);
  quality.sparse_perplexity = std::exp(sums.sparse / tokens);
  const double rise = (sums.sparse - sums.dense) / tokens;
  quality.degradation_percent = 100 * (std::exp(rise) - 1);
  quality.degradation_error_percent =
      100 * std::exp(rise) *
      standard_error(sums.sparse - sums.dense, sums.difference_squares, sums.tokens);
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
                   quality.degradation_percent + *quality.degradation_error_percent <=
                       options_.max_degradation_percent;
  return result;
}

Schedule Job::draft(std::vector<LayerSchedule> layers) const {
  Schedule schedule;
  schedule.model = engine_.identity();
  schedule.selection = options_.selection;
  schedule.layers = std::move(layers);
  CalibrationRecord& record = schedule.calibration;
  record.planner = options_.planner == Planner::kDynamicProgramming ? "dp" : "greedy";
  record.requested = RequestedSchedule{options_.anchors, options_.dense_layers,
                                       options_.auto_dense_layers, options_.min_recall};
  record.published_head_map_slip = options_.published_head_map_slip;
  record.weighted_by_loss = weighs();
  record.data_digest = windows_.measured_digest;
  record.held_out_digest = windows_.held_out_digest;
  record.windows = static_cast<int32_t>(windows_.measuring.size());
  record.window_tokens = windows_.measuring_rule.rows();
  record.tokens = count_tokens(windows_.measuring);
  if (options_.planner == Planner::kGreedy) {
    record.threshold = options_.greedy.threshold;
    record.max_reuse_dist = options_.greedy.max_reuse_dist;
  }
  return schedule;
}

absl::Status Job::cut(const Texts& texts) {
  auto parts = split_texts(texts);
  if (!parts.ok()) return parts.status();
  windows_.measured_digest = token_digest(parts->measured);
  windows_.held_out_digest = token_digest(parts->held_out);
  // A gate window runs in two branches, each of whole blocks of the cache.
  const EngineStats stats = engine_.stats();
  const auto rule = [&](int32_t branches) {
    const int64_t room = int64_t{stats.total_blocks / branches} * stats.block_size;
    return WindowSettings{options_.selection, options_.window_tokens,
                          static_cast<int32_t>(std::min<int64_t>(engine_.model().context, room)),
                          engine_.tokenizer().prefix_tokens()};
  };
  windows_.measuring_rule = rule(1);
  windows_.gating_rule = rule(2);
  auto measuring = measured_windows(parts->measured, windows_.measuring_rule);
  if (!measuring.ok()) return measuring.status();
  windows_.measuring = *std::move(measuring);
  windows_.weighing = layer_cost_windows(parts->measured, windows_.gating_rule);
  auto gating = held_out_windows(parts->held_out, windows_.gating_rule);
  if (!gating.ok()) return gating.status();
  windows_.gating = *std::move(gating);
  return absl::OkStatus();
}

absl::Status Job::gate(std::vector<LayerSchedule> plan, CalibrationOutcome& outcome) {
  const int64_t each = count_tokens(windows_.gating);
  const int64_t done = each * static_cast<int64_t>(outcome.table.size());
  const int64_t usual = automatic() ? 2 * std::bit_width(plan.size()) + 2 : 1;  // candidates
  auto schedule = std::make_shared<Schedule>(draft(std::move(plan)));
  const auto result = gate(schedule, done, std::max(done + each, usual * each));
  if (!result.ok()) return result.status();
  schedule->quality = result->quality;
  const bool first = outcome.table.empty();
  outcome.table.push_back(*result);
  if (first || result->quality.passed || is_better(result->quality, outcome.schedule.quality)) {
    outcome.schedule = *schedule;
  }
  return absl::OkStatus();
}

absl::Status Job::search(const Similarity& similarity, CalibrationOutcome& outcome) {
  const std::vector<int32_t> given = dense_layers(similarity);
  std::vector<int32_t> rest;  // those first whose own choice costs most
  for (int32_t layer = 1; layer < similarity.layers() && !similarity.select_cost.empty(); ++layer) {
    if (std::ranges::find(given, layer) == given.end()) rest.push_back(layer);
  }
  std::ranges::stable_sort(rest, std::greater(),
                           [&](int32_t layer) { return similarity.select_cost[layer]; });
  const auto dense_with = [&](int32_t more) {
    std::vector<int32_t> dense(rest.begin(), rest.begin() + more);
    dense.insert(dense.end(), given.begin(), given.end());
    return dense;
  };
  const auto passes = [&](ScheduleSize size) -> absl::StatusOr<bool> {
    if (outcome.schedule.quality.suspect) return false;  // nothing can pass
    auto plans = schedules_by_dynamic_programming(similarity, dense_with(size.more_dense));
    absl::Status status = gate(std::move(plans[static_cast<size_t>(size.selecting) - 1]), outcome);
    if (!status.ok()) return status;
    const QualityRecord& quality = outcome.table.back().quality;
    // One that drops no key is no schedule, but shows that with fewer selecting layers one may
    // pass.
    return quality.passed || quality.keys_attended_ratio >= 1;
  };
  const auto most =
      static_cast<int32_t>(schedules_by_dynamic_programming(similarity, given).size());
  const auto best = cheapest_passing_size(most, static_cast<int32_t>(rest.size() / 2), passes);
  if (!best.ok()) return best.status();
  if (const ScheduleSize found = best->value_or(ScheduleSize{}); found.more_dense > 0) {
    rest.resize(static_cast<size_t>(found.more_dense));
    std::ranges::sort(rest);
    outcome.note = absl::StrCat("kept dense, since so the least is read: layer",
                                rest.size() > 1 ? "s " : " ", absl::StrJoin(rest, ", "));
  }
  return absl::OkStatus();
}

absl::StatusOr<CalibrationOutcome> Job::run(const Texts& texts) {
  const absl::Time begin = absl::Now();
  if (absl::Status status = cut(texts); !status.ok()) return status;
  const auto similarity = this->similarity();
  if (!similarity.ok()) return similarity.status();
  report(CalibrationStage::kPlanning, 0, 0);
  CalibrationOutcome outcome;
  for (int32_t a = 0; a < similarity->layers(); ++a) {
    outcome.similarity.push_back({1.0});
    for (int32_t b = a + 1; b < similarity->layers(); ++b) {
      outcome.similarity.back().push_back(std::clamp(similarity->layer(a, b), 0.0, 1.0));
    }
  }
  absl::Status gated =
      automatic() ? search(*similarity, outcome) : gate(plan(*similarity, outcome.note), outcome);
  if (!gated.ok()) return gated;
  outcome.schedule.created_at =
      absl::FormatTime("%Y-%m-%dT%H:%M:%SZ", absl::Now(), absl::UTCTimeZone());
  outcome.schedule.calibration.duration_seconds = absl::ToDoubleSeconds(absl::Now() - begin);
  seal(outcome.schedule);
  const int64_t total = count_tokens(windows_.gating);
  report(CalibrationStage::kDone, total, total);
  return outcome;
}

}  // namespace

bool is_better(const QualityRecord& a, const QualityRecord& b) {
  const bool sparse = a.keys_attended_ratio < 1;
  if (a.passed != b.passed) return a.passed;
  if (sparse != (b.keys_attended_ratio < 1)) return sparse;
  return a.degradation_percent < b.degradation_percent;
}

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
