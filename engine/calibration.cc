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
#include "engine/attention/similarity_recorder.h"
#include "engine/engine_impl.h"

namespace kascade {
namespace {

constexpr int64_t kLeastHeldOutTokens = 2048;
constexpr int64_t kMostGateTokens = 16384;
constexpr int32_t kMeasuredWindows = 16;
constexpr int32_t kLongWindow = 16384;

using Texts = std::vector<std::vector<Token>>;
using Progress = std::function<void(const CalibrationProgress&)>;

// ---- Text to windows
// -----------------------------------------------------------------------------

struct Split {
  Texts measured;
  Texts held_out;  // the last 20 % of each text
};

absl::StatusOr<Split> split(const Texts& texts) {
  Split result;
  int64_t all = 0, held_out = 0;
  for (const std::vector<Token>& text : texts) {
    const size_t held = text.size() / 5;
    result.measured.emplace_back(text.begin(), text.end() - held);
    result.held_out.emplace_back(text.end() - held, text.end());
    all += static_cast<int64_t>(text.size());
    held_out += static_cast<int64_t>(held);
  }
  if (held_out < kLeastHeldOutTokens) {
    return absl::InvalidArgumentError(absl::StrCat(
        "texts: ", all, " tokens in all leave ", held_out,
        " held-out tokens (the last 20 % of each "
        "text); at least ",
        kLeastHeldOutTokens, " are needed, so give ", kLeastHeldOutTokens * 5, " tokens or more"));
  }
  return result;
}

// Cuts texts into pieces of `tokens`; a shorter rest is kept from `least` tokens on. At most `most`
// pieces, evenly spaced.
Texts cut(const Texts& texts, int64_t tokens, int64_t least, int64_t most) {
  Texts pieces;
  for (const std::vector<Token>& text : texts) {
    const auto size = static_cast<int64_t>(text.size());
    for (int64_t begin = 0; size - begin >= least; begin += tokens) {
      pieces.emplace_back(text.begin() + begin, text.begin() + std::min(size, begin + tokens));
    }
  }
  const auto all = static_cast<int64_t>(pieces.size());
  if (all <= most) return pieces;
  Texts kept;
  for (int64_t i = 0; i < most; ++i) kept.push_back(std::move(pieces[i * all / most]));
  return kept;
}

Texts with_prefix(Texts pieces, std::span<const int32_t> prefix) {
  for (std::vector<Token>& piece : pieces)
    piece.insert(piece.begin(), prefix.begin(), prefix.end());
  return pieces;
}

// Shortest window that holds one full tile with more candidates than budget.
int32_t least_window(const SelectionRule& rule, int32_t context) {
  for (int32_t tokens = rule.query_tile; tokens <= context; tokens += rule.query_tile) {
    if (!sampled_tiles(rule, tokens).empty()) return tokens;
  }
  return context + 1;
}

std::string token_digest(const Texts& texts) {
  std::string bytes;
  for (const std::vector<Token>& text : texts) {
    const auto size = static_cast<uint64_t>(text.size());
    bytes.append(reinterpret_cast<const char*>(&size), sizeof(size));
    bytes.append(reinterpret_cast<const char*>(text.data()), text.size() * sizeof(Token));
  }
  return digest(bytes);
}

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

class Job {
 public:
  Job(Engine& engine, const CalibrationOptions& options, const Progress& progress,
      const std::atomic<bool>& stop)
      : engine_(engine), options_(options), progress_(progress), stop_(stop) {}

  absl::StatusOr<CalibrationOutcome> run(const Texts& texts);

 private:
  absl::StatusOr<Texts> measured_windows(const Texts& texts) const;
  absl::StatusOr<Similarity> measure(const Texts& windows);
  std::vector<std::vector<LayerPlan>> plan(const Similarity& similarity) const;
  absl::StatusOr<GateResult> gate(std::shared_ptr<const Schedule> schedule, const Texts& windows,
                                  int64_t done, int64_t total);
  Schedule draft(const Texts& windows, const Split& parts, std::vector<LayerPlan> layers) const;
  void report(CalibrationStage stage, int64_t done, int64_t total, int32_t anchors = 0) const {
    progress_({stage, done, total, anchors});
  }

  Engine& engine_;
  const CalibrationOptions& options_;
  const Progress& progress_;
  const std::atomic<bool>& stop_;
};

int64_t count_tokens(const Texts& texts) {
  int64_t tokens = 0;
  for (const std::vector<Token>& text : texts) tokens += static_cast<int64_t>(text.size());
  return tokens;
}

absl::StatusOr<Texts> Job::measured_windows(const Texts& texts) const {
  const auto prefix = engine_.tokenizer().prefix_tokens();
  const int32_t context = engine_.model().context;
  const int64_t room =
      std::min(options_.window_tokens, context) - static_cast<int64_t>(prefix.size());
  const int64_t least =
      least_window(options_.selection, context) - static_cast<int64_t>(prefix.size());
  int64_t longest = 0;
  for (const std::vector<Token>& text : texts) {
    longest = std::max(longest, static_cast<int64_t>(text.size()));
  }
  // The last token of a window is never fed, hence one more than the tiles need.
  if (std::min(room, longest) < least + 1) {
    return absl::InvalidArgumentError(absl::StrCat(
        "texts: no query tile has more candidates than budget; windows of at least ", least + 1,
        " tokens are needed under this selection (window_tokens ", options_.window_tokens,
        ", context ", context, "), the longest measured text has ", longest));
  }
  Texts windows = cut(texts, room, least + 1, kMeasuredWindows);
  const int64_t long_room = std::min(context, kLongWindow) - static_cast<int64_t>(prefix.size());
  if (long_room > room && longest > room) {
    const auto text = std::ranges::max_element(texts, {}, &std::vector<Token>::size);
    windows.emplace_back(text->begin(), text->begin() + std::min(longest, long_room));
  }
  return with_prefix(std::move(windows), prefix);
}

absl::StatusOr<Similarity> Job::measure(const Texts& windows) {
  const ModelConfig& model = engine_.model();
  const RecorderShape shape{model.layers, model.kv_heads, model.group()};
  const auto kind =
      options_.maker == Maker::kOptimal ? SimilarityKind::kRecalledMass : SimilarityKind::kJaccard;
  Gathering gathering;
  std::vector<std::shared_ptr<SimilarityRecorder>> recorders;
  std::vector<SeqId> ids;
  std::vector<int64_t> done(windows.size(), 0);
  const int64_t total = count_tokens(windows);
  absl::Status submitted;
  for (size_t i = 0; i < windows.size() && submitted.ok(); ++i) {
    recorders.push_back(std::make_shared<SimilarityRecorder>(
        options_.selection, kind, shape, static_cast<int32_t>(windows[i].size()) - 1));
    auto sink = gathering.sink([this, &done, i, total](const Event& event) {
      done[i] = std::max<int64_t>(done[i], event.computed_tokens);
      int64_t sum = 0;
      for (const int64_t tokens : done) sum += tokens;
      report(CalibrationStage::kMeasuring, sum, total);
    });
    auto id = engine_.impl().enqueue({.request = {.tokens = windows[i], .task = Score{}},
                                      .mode = Mode::kDense,
                                      .schedule = nullptr,
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

std::vector<std::vector<LayerPlan>> Job::plan(const Similarity& similarity) const {
  std::vector<int32_t> dense = options_.dense_layers;
  if (options_.auto_dense_layers) {
    for (int32_t layer = 1; layer < similarity.layers(); ++layer) {
      if (similarity.self_recall[layer] < options_.min_recall) dense.push_back(layer);
    }
  }
  if (options_.maker == Maker::kGreedy) return {plan_greedy(similarity, options_.greedy, dense)};
  std::vector<std::vector<LayerPlan>> plans = plan_optimal(similarity, dense);
  if (options_.anchors == 0) return plans;
  const size_t index = std::min<size_t>(options_.anchors, plans.size()) - 1;
  return {std::move(plans[index])};
}

// Dense and sparse in one pass over the held-out windows, every position by the row rule.
absl::StatusOr<GateResult> Job::gate(std::shared_ptr<const Schedule> schedule, const Texts& windows,
                                     int64_t done, int64_t total) {
  struct Sums {
    int64_t tokens = 0, same_top1 = 0;
    double dense = 0, sparse = 0, kl = 0;
    AttentionCounts counts;
  } sums;
  GateResult result{.anchors = 0, .predicted_similarity = predicted_similarity(schedule->layers)};
  for (const LayerPlan& layer : schedule->layers) result.anchors += layer.role == Role::kAnchor;
  ++result.anchors;  // layer 0 selects too
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
      report(CalibrationStage::kGating, done + sums.tokens, total, result.anchors);
    });
    Request request{.tokens = window, .task = Score{}};
    request.attention.mode = Mode::kCompare;
    auto id = engine_.submit_background(std::move(request), schedule, std::move(sink));
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
  quality.max_degradation_percent = options_.max_degradation_percent;
  quality.suspect = dense_nll > std::log(static_cast<double>(engine_.model().vocab)) - 1;
  quality.passed = !quality.suspect && std::isfinite(quality.sparse_perplexity) &&
                   quality.degradation_percent <= options_.max_degradation_percent;
  return result;
}

Schedule Job::draft(const Texts& windows, const Split& parts, std::vector<LayerPlan> layers) const {
  Schedule schedule;
  schedule.model = engine_.identity();
  schedule.selection = options_.selection;
  schedule.layers = std::move(layers);
  CalibrationRecord& record = schedule.calibration;
  record.maker = options_.maker == Maker::kOptimal ? "dp" : "greedy";
  record.data_digest = token_digest(parts.measured);
  record.held_out_digest = token_digest(parts.held_out);
  record.windows = static_cast<int32_t>(windows.size());
  record.window_tokens = options_.window_tokens;
  record.tokens = count_tokens(windows);
  if (options_.maker == Maker::kGreedy) {
    record.threshold = options_.greedy.threshold;
    record.max_reuse_dist = options_.greedy.max_reuse_dist;
  }
  return schedule;
}

absl::StatusOr<CalibrationOutcome> Job::run(const Texts& texts) {
  const absl::Time begin = absl::Now();
  auto parts = split(texts);
  if (!parts.ok()) return parts.status();
  auto windows = measured_windows(parts->measured);
  if (!windows.ok()) return windows.status();
  auto similarity = measure(*windows);
  if (!similarity.ok()) return similarity.status();
  report(CalibrationStage::kPlanning, 0, 0);
  std::vector<std::vector<LayerPlan>> plans = plan(*similarity);

  const auto prefix = engine_.tokenizer().prefix_tokens();
  const int64_t room = std::min(options_.window_tokens, engine_.model().context) -
                       static_cast<int64_t>(prefix.size());
  const Texts gate_windows = with_prefix(cut(parts->held_out, room, std::min<int64_t>(room, 64),
                                             std::max<int64_t>(1, kMostGateTokens / room)),
                                         prefix);
  const int64_t gate_tokens = count_tokens(gate_windows);
  const int64_t total = gate_tokens * static_cast<int64_t>(plans.size());
  CalibrationOutcome outcome;
  std::optional<Schedule> best;
  for (size_t i = 0; i < plans.size(); ++i) {
    auto schedule = std::make_shared<Schedule>(draft(*windows, *parts, std::move(plans[i])));
    auto result = gate(schedule, gate_windows, gate_tokens * static_cast<int64_t>(i), total);
    if (!result.ok()) return result.status();
    schedule->quality = result->quality;
    outcome.table.push_back(*result);
    const bool better = !best || result->quality.passed ||
                        result->quality.degradation_percent < best->quality.degradation_percent;
    if (better) best = *schedule;
    if (result->quality.passed) break;
  }
  outcome.schedule = *std::move(best);
  outcome.schedule.created_at =
      absl::FormatTime("%Y-%m-%dT%H:%M:%SZ", absl::Now(), absl::UTCTimeZone());
  outcome.schedule.calibration.duration_seconds = absl::ToDoubleSeconds(absl::Now() - begin);
  seal(outcome.schedule);
  report(CalibrationStage::kDone, total, total);
  return outcome;
}

}  // namespace

absl::Status validate(const CalibrationOptions& options, const ModelConfig& model) {
  if (absl::Status status = validate(options.selection); !status.ok()) return status;
  const auto outside = [](const char* field, double low, double high, double value) {
    return absl::InvalidArgumentError(
        absl::StrCat(field, ": must be in [", low, ", ", high, "], got ", value));
  };
  if (options.anchors < 0 || options.anchors > model.layers) {
    return outside("anchors", 1, model.layers, options.anchors);
  }
  for (const int32_t layer : options.dense_layers) {
    if (layer < 0 || layer >= model.layers) {
      return outside("dense_layers", 0, model.layers - 1, layer);
    }
  }
  if (!(options.greedy.threshold >= 0 && options.greedy.threshold <= 1)) {
    return outside("threshold", 0, 1, options.greedy.threshold);
  }
  if (options.greedy.max_reuse_dist < 1 || options.greedy.max_reuse_dist > 1024) {
    return outside("max_reuse_dist", 1, 1024, options.greedy.max_reuse_dist);
  }
  if (!(options.min_recall >= 0 && options.min_recall <= 1)) {
    return outside("min_recall", 0, 1, options.min_recall);
  }
  if (options.window_tokens < 64 || options.window_tokens > (1 << 20)) {
    return outside("window_tokens", 64, 1 << 20, options.window_tokens);
  }
  if (!(options.max_degradation_percent >= 0 && options.max_degradation_percent <= 1000)) {
    return outside("max_degradation_percent", 0, 1000, options.max_degradation_percent);
  }
  return absl::OkStatus();
}

absl::StatusOr<CalibrationOutcome> calibrate(Engine& engine, const CalibrationOptions& options,
                                             const Texts& texts, const Progress& progress,
                                             const std::atomic<bool>& stop) {
  if (absl::Status status = validate(options, engine.model()); !status.ok()) return status;
  return Job(engine, options, progress, stop).run(texts);
}

}  // namespace kascade
