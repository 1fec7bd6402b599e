#include "tests/bench/runs.h"

#include <algorithm>
#include <cstdio>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "engine/backend/backend.h"
#include "engine/check.h"
#include "tests/bench/shapes.h"

namespace kascade::bench {
namespace {

absl::StatusOr<WeightFormat> weight_format(const std::string& name) {
  for (const WeightFormat format : {WeightFormat::kAuto, WeightFormat::kF32, WeightFormat::kBF16,
                                    WeightFormat::kInt8, WeightFormat::kInt4}) {
    if (name == std::string(name_of(format))) return format;
  }
  return absl::InvalidArgumentError(
      absl::StrCat("weights: must be auto, f32, bf16, int8 or int4, is \"", name, "\""));
}

absl::Status check(const Settings& settings, const ModelConfig& config) {
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

Runs::Runs(const Settings& settings, const ModelConfig& config, std::unique_ptr<Backend> backend)
    : settings_(settings),
      config_(config),
      backend_(std::make_unique<TimedBackend>(std::move(backend))),
      dense_(make_dense_policy()),
      sparse_(make_kascade_policy(typical_schedule(config, settings.ratio), std::nullopt)),
      meter_(backend_->threads()),
      ceilings_(meter_.measure()) {}

absl::StatusOr<std::unique_ptr<Runs>> Runs::make(const Settings& settings) {
  auto config = shape_named(settings.shape);
  if (!config.ok()) return config.status();
  if (settings.layers > 0) config->layers = std::min(config->layers, settings.layers);
  if (auto status = check(settings, *config); !status.ok()) return status;
  const auto weights = weight_format(settings.weights);
  if (!weights.ok()) return weights.status();
  auto backend = open_backend({.weights = *weights,
                               .checkpoint_dtype = DType::kBF16,
                               .head_dim = config->head_dim,
                               .threads = settings.threads});
  if (!backend.ok()) return backend.status();
  return std::unique_ptr<Runs>(new Runs(settings, *config, *std::move(backend)));
}

const AttentionPolicy& Runs::policy(const std::string& mode) const {
  return mode == "dense" ? *dense_ : *sparse_;
}

SyntheticModel& Runs::model() {
  if (!model_) {
    const int32_t rows = std::max(settings_.length, *std::ranges::max_element(settings_.sequences));
    model_ = std::make_unique<SyntheticModel>(config_, *backend_, rows);
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
    auto made = SyntheticContexts::make(config_, backend_->precision().cache, sequences, tokens);
    if (!made.ok()) return made.status();
    contexts_ = *std::move(made);
  }
  return contexts_.get();
}

Speeds Runs::speeds() const {
  const bool narrow = backend_->precision().weights == WeightFormat::kBF16;
  const double operations = narrow && ceilings_.bf16 > 0 ? ceilings_.bf16 : ceilings_.f32;
  return {.matmul = operations, .attention = operations, .read = ceilings_.read.median};
}

SamplePlan Runs::plan(bool short_enough_to_repeat) const {
  const bool narrow = backend_->precision().weights == WeightFormat::kBF16;
  return {.repeat = settings_.repeat,
          .least_seconds = short_enough_to_repeat ? 0.3 : 0,
          .loop = narrow ? bf16_loop() : f32_loop()};
}

void Runs::note(Measurement measurement) {
  const Summary seconds = measurement.seconds();
  std::fprintf(stderr, "%s",
               absl::StrFormat("%s %s %s, depth %d, %d rows: %.2f ms, %.0f %% of the floor%s\n",
                               measurement.command, measurement.mode, measurement.what,
                               measurement.depth, measurement.rows, seconds.median * 1e3,
                               measurement.share_of_floor().median * 100,
                               measurement.samples.all_disturbed ? " (disturbed)" : "")
                   .c_str());
  measurements_.push_back(std::move(measurement));
}

void Runs::one_step(StepRunner& runner, Measurement m, const std::vector<RowRun>& runs) {
  const AttentionPolicy& chosen = policy(m.mode);
  m.ceilings = speeds();
  m.work =
      step_work(config_, chosen, runs, static_cast<double>(model().transformer().packed_bytes()),
                static_cast<double>(size_of(backend_->precision().cache)));
  m.samples = collect(meter_, plan(true), [&] { return runner.run(chosen, runs); });
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

absl::Status Runs::steps(const std::string& command, const std::string& what, int32_t sequences,
                         int32_t rows, bool row_rule) {
  const int32_t deepest = *std::ranges::max_element(settings_.depths);
  auto made = contexts(sequences, deepest + rows);
  if (!made.ok()) return made.status();
  StepRunner runner(model(), *backend_, **made);
  for (const std::string& mode : settings_.modes) {
    for (size_t index = 0; index < settings_.depths.size(); ++index) {
      const int32_t depth = settings_.depths[index];
      const std::vector<RowRun> runs(static_cast<size_t>(sequences), {depth, rows, row_rule});
      // The first step of so many rows builds what is built once; at any depth.
      const std::vector<RowRun> first(static_cast<size_t>(sequences), {0, rows, row_rule});
      if (index == 0) runner.run(policy(mode), first);
      one_step(runner,
               {.command = command,
                .what = what,
                .mode = mode,
                .depth = depth,
                .sequences = sequences,
                .rows = sequences * rows},
               runs);
    }
  }
  return absl::OkStatus();
}

absl::Status Runs::prefill() {
  return steps("prefill", "chunk", 1, settings_.length, settings_.rule == "row");
}

absl::Status Runs::decode() {
  for (const int32_t sequences : settings_.sequences) {
    auto status = steps("decode", "step", sequences, 1, /*row_rule=*/true);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

}  // namespace kascade::bench
