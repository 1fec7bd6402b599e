#include "tools/train/training_run.h"

#include <cmath>
#include <fstream>
#include <limits>
#include <memory>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/adapter/adapter_file.h"
#include "engine/backend/backend.h"
#include "engine/model/checkpoint.h"
#include "engine/model/config.h"
#include "engine/training/backend_products.h"
#include "engine/training/state_files.h"
#include "engine/training/student.h"
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

// What a run has opened. Members are destroyed in reverse order.
struct Opened {
  ModelConfig config{};
  Checkpoint checkpoint{};
  std::unique_ptr<Backend> backend{};
  std::unique_ptr<training::Products<float>> products{};
  Adapter adapter{};  // options and shape; parameters if the training starts from an adapter
  std::unique_ptr<training::Student<float>> student{};
  ChosenTexts texts{};
};

absl::Status open_model(const TrainingRequest& request, Opened& opened) {
  auto config = load_config(request.model);
  if (!config.ok()) return config.status();
  opened.config = *std::move(config);
  auto checkpoint = open_checkpoint(request.model, opened.config);
  if (!checkpoint.ok()) return checkpoint.status();
  opened.checkpoint = *std::move(checkpoint);
  if (auto status = training::trainable(opened.config, opened.checkpoint); !status.ok()) {
    return status;
  }
  auto backend = open_backend(
      {.name = "cpu", .weights = WeightFormat::kF32, .cpu = {.count = request.threads}});
  if (!backend.ok()) return backend.status();
  opened.backend = *std::move(backend);
  opened.products = training::make_backend_products(*opened.backend);
  return opened.backend->attach_thread();
}

absl::Status open_adapter(const TrainingRequest& request, Opened& opened) {
  opened.adapter.shape = adapter_shape(opened.config);
  opened.adapter.options = request.options;
  opened.adapter.weights_digest = opened.checkpoint.weights_digest;
  if (request.start.empty()) return validate(request.options);
  auto start = load_adapter(request.start);
  if (!start.ok()) return start.status();
  if (start->weights_digest != opened.adapter.weights_digest ||
      start->shape != opened.adapter.shape) {
    return absl::FailedPreconditionError(absl::StrCat(
        request.start.string(), ": was trained on another model than ", request.model.string()));
  }
  opened.adapter = *std::move(start);
  return absl::OkStatus();
}

absl::Status open_texts(const TrainingRequest& request, Opened& opened) {
  auto tokenizer = open_tokenizer(request.model);
  if (!tokenizer.ok()) return tokenizer.status();
  for (const int32_t length : request.texts.lengths) {
    if (length <= opened.config.context) continue;
    return absl::InvalidArgumentError(absl::StrCat("--max-length: must be at most the model's ",
                                                   opened.config.context, " tokens, is ", length));
  }
  std::optional<int32_t> end;
  if (!opened.config.eos_tokens.empty()) end = opened.config.eos_tokens.front();
  std::optional<ChatFormat> format;
  if (const auto found = find_chat_format(request.model, **tokenizer); found.ok()) format = *found;
  auto texts =
      request.task
          ? choose_questions(request.files, *request.task, **tokenizer, format, end, request.texts)
          : choose_texts(request.files, **tokenizer, opened.config.vocab, request.texts);
  if (!texts.ok()) return texts.status();
  opened.texts = *std::move(texts);
  return absl::OkStatus();
}

absl::Status make_output(const TrainingRequest& request, Opened&) {
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
                                             const training::Trainer& trainer, const Opened& opened,
                                             uint64_t seed) {
  auto kept = files.newest();
  if (!kept.ok()) return kept.status();
  if (*kept) return **std::move(kept);
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
  Opened opened;
  for (auto* open : {open_model, open_adapter, open_texts, make_output}) {
    if (auto status = open(request, opened); !status.ok()) return status;
  }
  opened.student = std::make_unique<training::Student<float>>(
      opened.config, opened.checkpoint, opened.adapter.options, *opened.products);
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
