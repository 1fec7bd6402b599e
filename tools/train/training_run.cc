#include "tools/train/training_run.h"

#include <cmath>
#include <fstream>
#include <limits>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/adapter/adapter_file.h"
#include "engine/training/state_files.h"
#include "nlohmann/json.hpp"

namespace kascade::train {
namespace {

using training::TrainingEnd;
using training::TrainingState;
using training::UpdateReport;

nlohmann::ordered_json described(const TrainingRequest& request, const ChosenTexts& texts) {
  const training::TrainingSettings& settings = request.settings;
  const training::OptimizerSettings& optimizer = settings.optimizer;
  return {{"stage", settings.stage == training::Stage::kLayers ? "layers" : "model"},
          {"loss_mode", request.loss_name},
          {"temperature", settings.loss.temperature},
          {"texts_per_update", settings.texts_per_update},
          {"n_epochs", settings.epochs},
          {"learning_rate", optimizer.learning_rate},
          {"warmup_ratio", optimizer.warmup_ratio},
          {"decay", static_cast<int>(optimizer.decay)},
          {"weight_decay", optimizer.weight_decay},
          {"clip_norm", optimizer.clip_norm},
          {"seed", settings.seed},
          {"updates_between_checks", settings.updates_between_checks},
          {"patience", settings.patience},
          {"text_digest", texts.digest},
          {"texts", texts.training.size()},
          {"tokens", texts.tokens},
          {"start", request.start.filename().string()}};
}

absl::Status make_output(const TrainingRequest& request) {
  std::error_code error;
  std::filesystem::create_directories(request.output, error);
  if (!error) return absl::OkStatus();
  return absl::UnknownError(
      absl::StrCat("cannot create ", request.output.string(), ": ", error.message()));
}

std::string log_line(const UpdateReport& report) {
  nlohmann::ordered_json line = {{"update", report.update},
                                 {"loss", report.loss},
                                 {"gradient_norm", report.gradient_norm},
                                 {"learning_rate", report.learning_rate},
                                 {"tokens", report.tokens}};
  if (report.held_out) {
    line["held_out_loss"] = *report.held_out;
    line["branch_weights"] = report.branch_weights;
  }
  return line.dump() + "\n";
}

// Keeps the log and the checkpoints of one training.
class Keeper {
 public:
  Keeper(const TrainingRequest& request, training::StateFiles files,
         const std::atomic<bool>& interrupted)
      : request_(request),
        files_(std::move(files)),
        interrupted_(interrupted),
        log_(request.output / "training.jsonl", std::ios::app) {}

  // Whether training goes on.
  bool take(const UpdateReport& report, const TrainingState& state) {
    log_ << log_line(report) << std::flush;
    if (!log_) {
      status_ = absl::DataLossError(
          absl::StrCat("cannot write ", (request_.output / "training.jsonl").string()));
      return false;
    }
    const bool stops = interrupted_.load() || report.update == report.updates;
    if (stops || report.update % request_.updates_between_checkpoints == 0) {
      status_ = files_.save(state, request_.keep);
    }
    return status_.ok() && !interrupted_.load();
  }
  const absl::Status& status() const { return status_; }

 private:
  const TrainingRequest& request_;
  training::StateFiles files_;
  const std::atomic<bool>& interrupted_;
  std::ofstream log_;
  absl::Status status_;
};

absl::StatusOr<TrainingState> starting_state(const training::StateFiles& files,
                                             const training::Trainer& trainer,
                                             const TrainingInputs& opened, uint64_t seed) {
  auto kept = files.newest();
  if (!kept.ok()) return kept.status();
  if (std::optional<TrainingState>& newest = *kept; newest.has_value()) return *std::move(newest);
  TrainingState state = trainer.initial_state(seed);
  if (!opened.adapter.parameters.empty()) state.parameters = opened.adapter.parameters;
  return state;
}

absl::Status write_adapter(const TrainingRequest& request, const TrainingState& state,
                           nlohmann::ordered_json record, Adapter& adapter) {
  record["updates_done"] = state.update;
  if (state.best_held_out) record["best_held_out_loss"] = *state.best_held_out;
  adapter.training = nlohmann::json(record);
  adapter.parameters = state.best_parameters.empty() ? state.parameters : state.best_parameters;
  return save_adapter(adapter, request.output);
}

}  // namespace

absl::StatusOr<TrainingOutcome> train(const TrainingRequest& request,
                                      const std::atomic<bool>& interrupted,
                                      const std::function<void(const UpdateReport&)>& report) {
  TrainingInputs opened;
  if (auto status = open_inputs(request, opened); !status.ok()) return status;
  if (auto status = make_output(request); !status.ok()) return status;
  training::Trainer trainer(*opened.student, opened.texts.training, opened.texts.held_out,
                            request.settings);
  const nlohmann::ordered_json record = described(request, opened.texts);
  const std::string settings = absl::StrCat(record.dump(), to_json(opened.adapter.options).dump(),
                                            opened.adapter.weights_digest);
  const training::StateFiles files(request.output / "checkpoints", opened.student->layout(),
                                   opened.config.layers, settings);
  auto state = starting_state(files, trainer, opened, request.settings.seed);
  if (!state.ok()) return state.status();

  Keeper keeper(request, files, interrupted);
  TrainingOutcome outcome;
  outcome.end = trainer.run(*state, [&](const UpdateReport& done, const TrainingState& now) {
    report(done);
    return keeper.take(done, now);
  });
  if (!keeper.status().ok()) return keeper.status();
  if (auto status = write_adapter(request, *state, record, opened.adapter); !status.ok()) {
    return status;
  }
  outcome.updates = state->update;
  outcome.best_held_out = state->best_held_out.value_or(std::numeric_limits<double>::quiet_NaN());
  outcome.parameters = opened.student->size();
  outcome.training_tokens = opened.texts.tokens;
  outcome.texts = std::ssize(opened.texts.training);
  outcome.held_out_texts = std::ssize(opened.texts.held_out);
  return outcome;
}

}  // namespace kascade::train
