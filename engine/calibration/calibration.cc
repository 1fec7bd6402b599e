#include "engine/calibration/calibration.h"

#include <algorithm>
#include <bit>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "engine/base/clock.h"
#include "engine/calibration/candidate_schedules.h"
#include "engine/calibration/crossover.h"
#include "engine/calibration/layer_costs.h"
#include "engine/calibration/mass_search.h"
#include "engine/calibration/pass_keys.h"
#include "engine/calibration/schedule_search.h"
#include "engine/calibration/window_runs.h"
#include "engine/calibration/windows.h"

namespace kascade {
namespace {

using Progress = std::function<void(const CalibrationProgress&)>;

// Tokens of the questions for pass keys: a multiple of those that perplexities are compared on, and
// at least so many. Perplexities run each token twice, dense and sparse, and a candidate's
// questions only once.
constexpr int64_t kRetrievalShare = 2;
constexpr int64_t kLeastRetrievalTokens = 32768;

// Dense and sparse attention take turns, and of each chunk the shortest time counts.
constexpr int kTimedTurns = 2;
constexpr size_t kMostTimedTokens = 4096;

// [a][b − a] for layers a ≤ b, rounding errors clipped.
std::vector<std::vector<double>> layer_similarities(const Similarity& similarity) {
  std::vector<std::vector<double>> rows;
  for (int32_t a = 0; a < similarity.layers(); ++a) {
    rows.push_back({1.0});
    for (int32_t b = a + 1; b < similarity.layers(); ++b) {
      rows.back().push_back(std::clamp(similarity.layer(a, b), 0.0, 1.0));
    }
  }
  return rows;
}

void add_note(const std::string& note, std::string& notes) {
  absl::StrAppend(&notes, notes.empty() ? "" : "; ", note);
}

class Job {
 public:
  Job(Engine& engine, CalibrationOptions options, const Progress& progress,
      const std::atomic<bool>& stop, Measurement* previous, RunResults* results)
      : engine_(engine),
        options_(std::move(options)),
        progress_(progress),
        runs_(engine, stop, results),
        previous_(previous),
        results_(results) {}

  absl::StatusOr<CalibrationOutcome> run(const CalibrationTexts& texts);

 private:
  // Fills measuring_, comparing_ and windows_.
  absl::Status cut_windows(const CalibrationTexts& texts);
  // Fills quality_check_.
  absl::Status prepare_quality_check();
  // Measures similarities and layer costs. What `previous_` holds of the same texts, measured in
  // the same way, is taken from there.
  absl::StatusOr<Measurement> measure();
  absl::StatusOr<std::vector<Similarity>> measure_similarity();
  absl::Status measure_costs(const std::vector<int32_t>& dense_layers, Similarity& similarity);

  // Builds schedules and checks them: outcome.schedule, table and note.
  absl::Status find_schedule(const Similarity& similarity, CalibrationOutcome& outcome);
  absl::Status search(const Similarity& similarity, CalibrationOutcome& outcome);
  absl::Status search_mass(const Similarity& similarity, CalibrationOutcome& outcome);
  // Checks a candidate, adds it to outcome.table, and puts it into outcome.schedule if it is better
  // than the one there.
  absl::Status check(std::vector<LayerSchedule> layers, CalibrationOutcome& outcome);
  // Sets the schedule's dense_below.
  absl::Status find_crossover(Schedule& schedule);
  // Sets when the schedule was made and how long that took, then its id.
  void finish(absl::Time begin, Schedule& schedule) const;
  // Adds what differs from the request in the texts that were measured and checked.
  void note_texts(std::string& note) const;
  // A schedule of these layers, with all that is known of it before its quality check.
  Schedule schedule_of(std::vector<LayerSchedule> layers) const;

  void report(CalibrationStage stage, int64_t done, int64_t total, int32_t anchors = 0) const {
    progress_({stage, done, total, anchors});
  }

  Engine& engine_;
  CalibrationOptions options_;
  const Progress& progress_;
  WindowRuns runs_;
  Measurement* previous_;  // may be null, like the results
  RunResults* results_;
  WindowSettings measuring_, comparing_;
  CalibrationWindows windows_;
  std::unique_ptr<QualityCheck> quality_check_{};
  int64_t checked_tokens_ = 0;  // done in the quality checks so far
};

absl::Status Job::cut_windows(const CalibrationTexts& texts) {
  const EngineStats stats = engine_.stats();
  // A window runs in one branch or, where it is compared, in two, each of which has whole blocks of
  // the cache.
  const auto settings = [&](int32_t branches, int32_t window_tokens) {
    const int64_t room = int64_t{stats.total_blocks / branches} * stats.block_size;
    return WindowSettings{
        options_.selection, window_tokens,
        static_cast<int32_t>(std::min<int64_t>(engine_.model().unwindowed_context(), room)),
        engine_.tokenizer().prefix_tokens(), options_.long_window};
  };
  measuring_ = settings(1, options_.window_tokens);
  comparing_ = settings(2, options_.checks_long_windows
                               ? std::max(options_.window_tokens, longest_check_window(texts))
                               : options_.window_tokens);
  const auto line_break = engine_.tokenizer().encode("\n", {.add_special_tokens = false});
  if (!line_break.ok()) return line_break.status();
  auto windows =
      calibration_windows(texts, {measuring_, comparing_, options_.join_texts, *line_break});
  if (!windows.ok()) return windows.status();
  windows_ = *std::move(windows);
  return absl::OkStatus();
}

absl::Status Job::prepare_quality_check() {
  QualityPanel panel{.kinds = windows_.held_out,
                     .window_rows = comparing_.rows(),
                     .vocab = engine_.model().vocab,
                     .max_degradation_percent = options_.max_degradation_percent};
  if (options_.retrieval) {
    PassKeySettings settings{.most_tokens = comparing_.rows(),
                             .tokens = std::max(kRetrievalShare * count_tokens(windows_.held_out),
                                                kLeastRetrievalTokens)};
    if (engine_.chat_format().ok()) settings.chat_format = *engine_.chat_format();
    auto questions = pass_key_questions(engine_.tokenizer(), windows_.held_out_text, settings);
    if (!questions.ok()) return questions.status();
    panel.questions = *std::move(questions);
  }
  quality_check_ = std::make_unique<QualityCheck>(runs_, std::move(panel));
  return absl::OkStatus();
}

absl::StatusOr<std::vector<Similarity>> Job::measure_similarity() {
  const int64_t total = count_tokens(windows_.measured);
  return runs_.measure(
      options_.selection, similarity_kind(options_), windows_.measured,
      [&](int64_t tokens) { report(CalibrationStage::kMeasuring, tokens, total); });
}

absl::Status Job::measure_costs(const std::vector<int32_t>& dense_layers, Similarity& similarity) {
  const LayerCostOptions options{.dense_layers = dense_layers,
                                 .measures_selection_loss = measures_selection_loss(options_)};
  const int64_t tokens_of_run = count_tokens(windows_.layer_cost);
  const int64_t total = tokens_of_run * options.most_runs(similarity.layers());
  int64_t done = 0;
  const auto mean_kl_of = [&](std::vector<LayerSchedule> layers) -> absl::StatusOr<double> {
    const auto schedule = std::make_shared<Schedule>(schedule_of(std::move(layers)));
    const auto compared = runs_.compare(schedule, windows_.layer_cost, [&](int64_t tokens) {
      report(CalibrationStage::kMeasuringCosts, done + tokens, total);
    });
    done += tokens_of_run;
    if (!compared.ok()) return compared.status();
    return mean_kl(compared->sums);
  };
  return measure_layer_costs(options, mean_kl_of, similarity);
}

absl::StatusOr<Measurement> Job::measure() {
  Measurement measurement{.texts = windows_.measured_digest,
                          .window_tokens = measuring_.rows(),
                          .long_window = measuring_.long_window,
                          .selection = options_.selection,
                          .kind = similarity_kind(options_)};
  if (previous_ != nullptr && previous_->same_as(measurement)) {
    measurement = *previous_;
  } else {
    auto windows = measure_similarity();
    if (!windows.ok()) return windows.status();
    measurement.windows = *std::move(windows);
    measurement.similarity = mean_similarity(measurement.windows);
  }
  Similarity& similarity = measurement.similarity;
  const std::vector<int32_t> dense = dense_layers(options_, similarity);
  const bool lacks_select_costs =
      measures_selection_loss(options_) && similarity.select_cost.empty();
  if (uses_measured_costs(options_) &&
      (measurement.measured_with_dense_layers != dense || lacks_select_costs)) {
    if (auto status = measure_costs(dense, similarity); !status.ok()) return status;
    measurement.measured_with_dense_layers = dense;
  }
  if (previous_ != nullptr) *previous_ = measurement;
  if (!uses_measured_costs(options_)) similarity.forget_costs();
  return measurement;
}

Schedule Job::schedule_of(std::vector<LayerSchedule> layers) const {
  Schedule schedule;
  schedule.model = engine_.identity();
  schedule.calibration = calibration_record(options_, windows_, measuring_);
  schedule.selection = options_.selection;
  schedule.layers = std::move(layers);
  return schedule;
}

absl::Status Job::check(std::vector<LayerSchedule> layers, CalibrationOutcome& outcome) {
  const int64_t tokens_of_check = quality_check_->tokens();
  const int64_t usual_checks = is_automatic(options_)   ? 2 * std::bit_width(layers.size()) + 2
                               : options_.searches_mass ? kUsualMassChecks
                                                        : 1;
  const int64_t total = std::max(checked_tokens_ + tokens_of_check, usual_checks * tokens_of_check);
  auto schedule = std::make_shared<Schedule>(schedule_of(std::move(layers)));
  const int32_t anchors = schedule->count(Role::kAnchor) + 1;
  int64_t done = 0;
  const auto result = quality_check_->check(schedule, [&](int64_t tokens) {
    done = tokens;
    report(CalibrationStage::kCheckingQuality, checked_tokens_ + done, total, anchors);
  });
  if (!result.ok()) return result.status();
  checked_tokens_ += done;
  schedule->quality = result->quality;
  const bool first = outcome.table.empty();
  outcome.table.push_back(*result);
  if (first || is_better(result->quality, outcome.schedule.quality)) outcome.schedule = *schedule;
  return absl::OkStatus();
}

absl::Status Job::search(const Similarity& similarity, CalibrationOutcome& outcome) {
  const auto passes = [&](std::vector<LayerSchedule> layers) -> absl::StatusOr<bool> {
    if (outcome.schedule.quality.suspect) return false;  // no schedule of this model can pass
    absl::Status status = check(std::move(layers), outcome);
    if (!status.ok()) return status;
    const QualityRecord& quality = outcome.table.back().quality;
    // A schedule that drops no key does not pass, but one with fewer selecting layers may.
    return quality.passed || quality.keys_attended_ratio >= 1;
  };
  const std::vector<int32_t> dense = dense_layers(options_, similarity);
  absl::Status status = search_schedules(similarity, dense, passes);
  if (!status.ok() || !outcome.schedule.quality.passed) return status;
  std::vector<int32_t> more_dense;
  for (int32_t layer = 1; layer < similarity.layers(); ++layer) {
    if (outcome.schedule.layers[layer].role != Role::kDense) continue;
    if (std::ranges::find(dense, layer) == dense.end()) more_dense.push_back(layer);
  }
  if (!more_dense.empty()) {
    add_note(absl::StrCat("kept dense, since so the least is read: layer",
                          more_dense.size() > 1 ? "s " : " ", absl::StrJoin(more_dense, ", ")),
             outcome.note);
  }
  return absl::OkStatus();
}

absl::Status Job::search_mass(const Similarity& similarity, CalibrationOutcome& outcome) {
  const auto check_mass = [&](double mass) -> absl::StatusOr<MassCheck> {
    if (outcome.schedule.quality.suspect) return MassCheck{};  // no schedule of this model can pass
    options_.selection.mass = mass;
    absl::Status status = check(every_layer_selecting(options_, similarity), outcome);
    if (!status.ok()) return status;
    const QualityRecord& quality = outcome.table.back().quality;
    double worst = 0;
    for (const KindQuality& kind : quality.kinds) {
      worst = std::max(worst, kind.degradation_percent + kind.degradation_error_percent);
    }
    return MassCheck{quality.passed, worst / options_.max_degradation_percent};
  };
  // What passes in short contexts may lose too much in longer ones.
  const bool whole_context =
      longest_rows(windows_.held_out) >= engine_.model().unwindowed_context();
  return least_passing_mass(whole_context ? kLeastMass : kUsualMass, check_mass).status();
}

absl::Status Job::find_schedule(const Similarity& similarity, CalibrationOutcome& outcome) {
  if (is_automatic(options_)) return search(similarity, outcome);
  if (options_.searches_mass) return search_mass(similarity, outcome);
  if (options_.planner == Planner::kMass) {
    return check(every_layer_selecting(options_, similarity), outcome);
  }
  if (options_.planner == Planner::kGreedy) {
    const std::vector<int32_t> dense = dense_layers(options_, similarity);
    outcome.most_similar_pair =
        most_similar_pair(similarity, options_.greedy.max_reuse_dist, dense);
    if (options_.auto_threshold) outcome.auto_threshold = auto_threshold(similarity, dense);
    if (outcome.auto_threshold) options_.greedy.threshold = outcome.auto_threshold->threshold;
  }
  return check(requested_schedule(options_, similarity, outcome.note), outcome);
}

absl::Status Job::find_crossover(Schedule& schedule) {
  if (options_.dense_below || !schedule.quality.passed) {
    schedule.selection.dense_below = options_.dense_below.value_or(0);
    return absl::OkStatus();
  }
  // One more token is generated behind the prompt.
  const size_t room =
      std::min(kMostTimedTokens, static_cast<size_t>(std::max(1, measuring_.context - 1)));
  const auto text = std::span(windows_.held_out_text);
  const auto tokens = text.first(std::min(text.size(), room));
  const AttentionChoice choices[] = {
      DenseAttention{}, ScheduledAttention{.schedule = std::make_shared<Schedule>(schedule)}};
  std::vector<ChunkTime> times[2];
  const auto total = static_cast<int64_t>(2 * kTimedTurns * tokens.size());
  int64_t done = 0;
  for (int turn = 0; turn < kTimedTurns; ++turn) {
    for (size_t i = 0; i < 2; ++i) {
      auto timed = runs_.time_chunks(choices[i], tokens, [&](int64_t fed) {
        report(CalibrationStage::kMeasuringTimes, done + fed, total);
      });
      if (!timed.ok()) return timed.status();
      keep_shortest(*timed, times[i]);
      done += static_cast<int64_t>(tokens.size());
    }
  }
  schedule.selection.dense_below =
      crossover_position(times[0], times[1], engine_.model().unwindowed_context());
  return absl::OkStatus();
}

void Job::note_texts(std::string& note) const {
  if (windows_.joined_texts > 0) {
    add_note(absl::StrCat(windows_.joined_texts,
                          " texts were joined to one, with line breaks "
                          "between, since they are too short one by one"),
             note);
  }
  if (!windows_.unchecked_kinds.empty()) {
    add_note(absl::StrCat("not checked, since fewer than ", kLeastTokensOfKind,
                          " tokens of them can be held out: ",
                          absl::StrJoin(windows_.unchecked_kinds, ", ")),
             note);
  }
  if (const int32_t longest = longest_rows(windows_.held_out); longest < measuring_.rows()) {
    add_note(absl::StrCat("the quality check reaches up to ", longest, " tokens, not ",
                          measuring_.rows(), ": held-out text and cache allow no longer windows"),
             note);
  }
}

void Job::finish(absl::Time begin, Schedule& schedule) const {
  schedule.created_at = absl::FormatTime("%Y-%m-%dT%H:%M:%SZ", absl::Now(), absl::UTCTimeZone());
  schedule.calibration.duration_seconds = absl::ToDoubleSeconds(steady_now() - begin);
  seal(schedule);
  if (results_ == nullptr) return;
  // A calibration that is interrupted now makes this very schedule when it continues, not a twin.
  const std::string* made = results_->find("schedule");
  const auto earlier = made == nullptr ? schedule : parse_schedule(*made);
  if (earlier.ok()) schedule = *earlier;
  if (made == nullptr) results_->keep("schedule", to_json(schedule));
}

absl::StatusOr<CalibrationOutcome> Job::run(const CalibrationTexts& texts) {
  const absl::Time begin = steady_now();
  if (absl::Status status = cut_windows(texts); !status.ok()) return status;
  if (absl::Status status = prepare_quality_check(); !status.ok()) return status;
  const auto measured = measure();
  if (!measured.ok()) return measured.status();
  report(CalibrationStage::kBuildingSchedules, 0, 0);
  CalibrationOutcome outcome;
  note_texts(outcome.note);
  outcome.similarity = layer_similarities(measured->similarity);
  absl::Status status = find_schedule(measured->similarity, outcome);
  if (!status.ok()) return status;
  if (status = find_crossover(outcome.schedule); !status.ok()) return status;
  outcome.layers =
      measured_layers(outcome.schedule.layers, measured->similarity, measured->windows);
  finish(begin, outcome.schedule);
  const int64_t total = count_tokens(windows_.held_out);
  report(CalibrationStage::kDone, total, total);
  return outcome;
}

}  // namespace

bool Measurement::same_as(const Measurement& other) const {
  return texts == other.texts && window_tokens == other.window_tokens &&
         long_window == other.long_window && selection == other.selection && kind == other.kind;
}

absl::StatusOr<CalibrationOutcome> calibrate(Engine& engine, const CalibrationOptions& options,
                                             const CalibrationTexts& texts,
                                             const Progress& progress,
                                             const std::atomic<bool>& stop, Measurement* previous,
                                             RunResults* results) {
  if (absl::Status status = validate(options, engine.model()); !status.ok()) return status;
  return Job(engine, options, progress, stop, previous, results).run(texts);
}

}  // namespace kascade
