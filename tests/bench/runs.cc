#include "tests/bench/runs.h"

#include <algorithm>
#include <cstdio>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/backend/backend.h"
#include "engine/backend/block_formats.h"
#include "engine/base/check.h"
#include "tests/bench/shapes.h"

namespace kascade::bench {
namespace {

constexpr int32_t kMinRows = 512;  // of a step in end_to_end()

absl::Status check(const Settings& settings, const ModelConfig& config) {
  if (settings.clock == Clock::kThread && settings.threads != 1) {
    return absl::InvalidArgumentError("clock thread: sees one thread only, needs --threads 1");
  }
  const int32_t most = config.context - settings.length;
  for (const int32_t depth : settings.depths) {
    if (depth <= most) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("depth: must be at most ", most, " (the model's context of ", config.context,
                     " less --length ", settings.length, "), is ", depth));
  }
  return absl::OkStatus();
}

}  // namespace

Runs::Runs(const Settings& settings, const ModelConfig& config, MeasuredSchedule schedule,
           std::unique_ptr<Backend> backend)
    : settings_(settings),
      config_(config),
      schedule_(std::move(schedule)),
      backend_(std::make_unique<TimedBackend>(std::move(backend), settings.clock)),
      dense_(make_dense_policy()),
      sparse_(make_policy(default_attention(schedule_.schedule), config.layers)),
      meter_(backend_->info().threads, settings.clock),
      ceilings_(meter_.measure()) {}

absl::StatusOr<std::unique_ptr<Runs>> Runs::make(const Settings& settings) {
  auto config = shape_named(settings.shape);
  if (!config.ok()) return config.status();
  if (settings.layers > 0) config->layers = std::min(config->layers, settings.layers);
  if (auto status = check(settings, *config); !status.ok()) return status;
  auto schedule = measured_schedule(*config, settings.schedule, settings.ratio);
  if (!schedule.ok()) return schedule.status();
  const auto blocks = block_dtype_named(settings.weights);
  const auto weights = weight_format_named(blocks ? "native" : settings.weights);
  if (!weights.ok()) return weights.status();
  const auto cache = cache_dtype_named(settings.kv_cache_dtype);
  if (!cache.ok()) return cache.status();
  auto backend = open_backend({.weights = *weights,
                               .cache = *cache,
                               .checkpoint_dtype = DType::kBF16,
                               .cpu = {.count = settings.threads}});
  if (!backend.ok()) return backend.status();
  return std::unique_ptr<Runs>(
      new Runs(settings, *config, *std::move(schedule), *std::move(backend)));
}

const AttentionPolicy& Runs::policy(const std::string& mode) const {
  return mode == "dense" ? *dense_ : *sparse_;
}

SyntheticModel& Runs::model() {
  if (!model_) {
    const int32_t rows =
        std::max({kMinRows, settings_.length, *std::ranges::max_element(settings_.sequences)});
    model_ = std::make_unique<SyntheticModel>(config_, *backend_, rows,
                                              block_dtype_named(settings_.weights));
    for (const HeadTile& tile : model_->transformer().head()) {
      backend_->mark_head(tile.matrix.get());
    }
  }
  return *model_;
}

absl::StatusOr<SyntheticContexts*> Runs::contexts(int32_t sequences, int32_t tokens) {
  const auto enough = [&] {
    return static_cast<int32_t>(contexts_->sequences().size()) >= sequences &&
           static_cast<int32_t>(contexts_->sequences().front().tokens.size()) >= tokens;
  };
  if (!contexts_ || !enough()) {
    contexts_.reset();
    auto made = SyntheticContexts::make(config_, *backend_, sequences, tokens);
    if (!made.ok()) return made.status();
    contexts_ = *std::move(made);
  }
  return contexts_.get();
}

double Runs::cache_element() const {
  const DType cache = backend_->precision().cache;
  return static_cast<double>(row_elements(cache, config_.head_dim) * size_of(cache)) /
         config_.head_dim;
}

// Integer weights multiply integers; attention is as wide as the cache.
Speeds Runs::speeds() const {
  const WeightFormat weights = backend_->precision().weights;
  const bool integers =
      weights != WeightFormat::kF32 && weights != WeightFormat::kBF16 && ceilings_.int8 > 0;
  const bool narrow_cache = backend_->precision().cache != DType::kF32 && ceilings_.bf16 > 0;
  const double attention = narrow_cache ? ceilings_.bf16 : ceilings_.f32;
  return {.matmul = integers ? ceilings_.int8 : attention,
          .attention = attention,
          .read = ceilings_.read.median};
}

SamplePlan Runs::plan() const {
  const bool narrow = backend_->precision().cache != DType::kF32;
  return {.repeat = settings_.repeat,
          .loop = narrow ? bf16_loop() : f32_loop(),
          .clock = settings_.clock};
}

void Runs::note(Measurement m) {
  std::fprintf(stderr, "%s %s %s, depth %d, %d rows: %.2f ms, %.0f %% of the floor%s\n",
               m.command.c_str(), m.mode.c_str(), m.what.c_str(), m.depth, m.rows,
               m.seconds().median * 1e3, m.share_of_floor().median * 100,
               m.samples.all_disturbed ? " (disturbed)" : "");
  measurements_.push_back(std::move(m));
}

void Runs::one_step(StepRunner& runner, Measurement m, const std::vector<RowRun>& runs) {
  const AttentionPolicy& chosen = policy(m.mode);
  m.ceilings = speeds();
  m.work = step_work(config_, chosen, runs,
                     static_cast<double>(model().transformer().packed_bytes()), cache_element());
  m.samples = collect(meter_, plan(), [&] { return runner.run(chosen, runs); });
  if (m.work.scoring_flops > 0) {
    const double choosing =
        runner.selection_seconds(chosen, runs) * selecting_layers(chosen, config_.layers);
    for (Sample& sample : m.samples.kept) {
      double& scoring = at(sample.stages, Stage::kScoring);
      at(sample.stages, Stage::kSelection) = std::min(choosing, scoring);
      scoring -= at(sample.stages, Stage::kSelection);
    }
  }
  note(std::move(m));
}

absl::Status Runs::steps(const std::string& command, int32_t sequences, int32_t rows,
                         bool per_query) {
  const int32_t deepest = *std::ranges::max_element(settings_.depths);
  auto made = contexts(sequences, deepest + rows);
  if (!made.ok()) return made.status();
  StepRunner runner(model(), *backend_, **made);
  for (const std::string& mode : settings_.modes) {
    // The first step of so many rows builds what is built once; at any depth.
    runner.run(policy(mode), std::vector<RowRun>(sequences, {0, rows, per_query}));
    for (const int32_t depth : settings_.depths) {
      one_step(runner,
               {.command = command,
                .what = per_query ? "by rows" : "by tiles",
                .mode = mode,
                .depth = depth,
                .sequences = sequences,
                .rows = sequences * rows,
                .per_query = per_query},
               std::vector<RowRun>(sequences, {depth, rows, per_query}));
    }
  }
  return absl::OkStatus();
}

absl::Status Runs::prefill() {
  return steps("prefill", 1, settings_.length, settings_.rule == "row");
}

absl::Status Runs::decode() {
  for (const int32_t sequences : settings_.sequences) {
    auto status = steps("decode", sequences, 1, /*per_query=*/true);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

}  // namespace kascade::bench
