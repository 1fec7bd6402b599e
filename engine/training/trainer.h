// Trains the adapters of a model on texts.
#ifndef KASCADE_ENGINE_TRAINING_TRAINER_H_
#define KASCADE_ENGINE_TRAINING_TRAINER_H_

#include <array>
#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/training/losses.h"
#include "engine/training/optimizer.h"
#include "engine/training/student.h"

namespace kascade::training {

// A text to train on: tokens and, for each, the token that should follow, or kNoTarget.
struct TrainingText {
  std::vector<int32_t> tokens{};
  std::vector<int32_t> targets{};
};

enum class Stage {
  // Each layer learns to agree with dense attention for the dense model's own inputs; no gradient
  // passes through a layer.
  kLayers,
  // The layers learn together, by what the whole model computes.
  kModel,
};

struct TrainingSettings {
  Stage stage = Stage::kLayers;
  LossSettings loss{};  // of Stage::kModel
  OptimizerSettings optimizer{};
  int32_t texts_per_update = 4;         // ≥ 1
  double epochs = 3;                    // > 0
  uint64_t seed = 1;                    // of the order of the texts
  int32_t updates_between_checks = 50;  // of the held-out loss; ≥ 1
  // Training stops after this many checks without a better held-out loss; 0: never early.
  int32_t patience = 0;
};

// What training continues from. The same state and settings give the same bits.
struct TrainingState {
  int64_t update = 0;  // updates done
  std::vector<float> parameters{};
  Moments moments{};
  std::optional<double> best_held_out{};
  int32_t checks_without_gain = 0;
  std::vector<float> best_parameters{};  // those of best_held_out; empty before the first check
};

struct UpdateReport {
  int64_t update = 0;   // counted from 1
  int64_t updates = 0;  // in all
  double loss = 0;      // mean over the texts of the update
  double gradient_norm = 0;
  double learning_rate = 0;
  int64_t tokens = 0;                // of the update
  std::optional<double> held_out{};  // the held-out loss, if it was computed after this update
  std::array<double, kBranches> branch_weights{};  // set together with held_out
};

enum class TrainingEnd { kFinished, kStoppedEarly, kDiverged, kInterrupted };

class Trainer {
 public:
  // All of them must outlive the object. There must be at least one text and one held-out text, of
  // at least two tokens each.
  Trainer(const Student<float>& student, const std::vector<TrainingText>& texts,
          const std::vector<TrainingText>& held_out, const TrainingSettings& settings);

  TrainingState initial_state(uint64_t seed) const;
  int64_t updates() const { return updates_; }  // in all

  // Continues from `state` and leaves in it the last state in which all numbers were finite. After
  // every update `report` is called, with the state after it; training is interrupted if it returns
  // false.
  TrainingEnd run(TrainingState& state,
                  const std::function<bool(const UpdateReport&, const TrainingState&)>& report);

  // The mean loss of the held-out texts.
  double held_out_loss(const std::vector<float>& parameters) const;

 private:
  double text_loss(const TrainingText& text, const std::vector<float>& parameters,
                   std::vector<float>* gradient) const;
  // The texts of an update, by their index.
  std::vector<size_t> texts_of(int64_t update) const;
  void check_held_out(TrainingState& state, UpdateReport& report) const;

  const Student<float>& student_;
  const std::vector<TrainingText>& texts_;
  const std::vector<TrainingText>& held_out_;
  TrainingSettings settings_;
  int64_t updates_;
};

}  // namespace kascade::training

#endif  // KASCADE_ENGINE_TRAINING_TRAINER_H_
