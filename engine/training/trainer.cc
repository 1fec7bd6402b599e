#include "engine/training/trainer.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

#include "engine/base/check.h"

namespace kascade::training {
namespace {

// Uniform in [0, limit); written out, because the standard library's distribution may differ
// elsewhere.
size_t draw_below(std::mt19937_64& random, size_t limit) {
  return static_cast<size_t>(random() % limit);
}

}  // namespace

Trainer::Trainer(const Student<float>& student, const std::vector<TrainingText>& texts,
                 const std::vector<TrainingText>& held_out, const TrainingSettings& settings)
    : student_(student), texts_(texts), held_out_(held_out), settings_(settings) {
  KASCADE_CHECK(!texts.empty() && !held_out.empty());
  const double texts_in_all = static_cast<double>(texts.size()) * settings.epochs;
  updates_ = std::max<int64_t>(
      1, static_cast<int64_t>(std::ceil(texts_in_all / settings.texts_per_update)));
}

TrainingState Trainer::initial_state(uint64_t seed) const {
  TrainingState state;
  state.parameters = student_.initial_parameters(seed);
  state.moments.first.resize(state.parameters.size());
  state.moments.second.resize(state.parameters.size());
  return state;
}

// Every epoch has an order of its own, which depends on the seed and the epoch alone.
std::vector<size_t> Trainer::texts_of(int64_t update) const {
  std::vector<size_t> chosen;
  std::vector<size_t> order(texts_.size());
  int64_t ordered_epoch = -1;
  for (int64_t i = update * settings_.texts_per_update;
       i < (update + 1) * settings_.texts_per_update; ++i) {
    const auto count = static_cast<int64_t>(texts_.size());
    if (i / count != ordered_epoch) {
      ordered_epoch = i / count;
      std::iota(order.begin(), order.end(), size_t{0});
      std::mt19937_64 random(settings_.seed * 0x9E3779B97F4A7C15ULL +
                             static_cast<uint64_t>(ordered_epoch));
      for (size_t k = order.size(); k > 1; --k)
        std::swap(order[k - 1], order[draw_below(random, k)]);
    }
    chosen.push_back(order[static_cast<size_t>(i % count)]);
  }
  return chosen;
}

double Trainer::text_loss(const TrainingText& text, const std::vector<float>& parameters,
                          std::vector<float>* gradient) const {
  const Stream<float> dense = student_.dense_stream(text.tokens);
  float* to = gradient != nullptr ? gradient->data() : nullptr;
  if (settings_.stage == Stage::kModel) {
    return student_
        .text_loss(text.tokens, dense, text.targets, settings_.loss, parameters.data(), to)
        .loss;
  }
  const auto layers = static_cast<int32_t>(dense.size()) - 1;
  double sum = 0;
  for (int32_t layer = 0; layer < layers; ++layer) {
    const int64_t offset = layer * student_.layer_size();
    sum += student_.layer_loss(layer, dense[layer], parameters.data() + offset,
                               to != nullptr ? to + offset : nullptr);
  }
  return sum / layers;
}

double Trainer::held_out_loss(const std::vector<float>& parameters) const {
  double sum = 0;
  for (const TrainingText& text : held_out_) sum += text_loss(text, parameters, nullptr);
  return sum / static_cast<double>(held_out_.size());
}

void Trainer::check_held_out(TrainingState& state, UpdateReport& report) const {
  report.held_out = held_out_loss(state.parameters);
  const Stream<float> stream = student_.dense_stream(held_out_.front().tokens);
  report.branch_weights = student_.branch_weights(stream, state.parameters.data());
  if (!state.best_held_out || *report.held_out < *state.best_held_out) {
    state.best_held_out = report.held_out;
    state.best_parameters = state.parameters;
    state.checks_without_gain = 0;
  } else {
    ++state.checks_without_gain;
  }
}

TrainingEnd Trainer::run(
    TrainingState& state,
    const std::function<bool(const UpdateReport&, const TrainingState&)>& report) {
  while (state.update < updates_) {
    if (settings_.patience > 0 && state.checks_without_gain >= settings_.patience) {
      return TrainingEnd::kStoppedEarly;
    }
    UpdateReport done{.updates = updates_};
    std::vector<float> gradient(state.parameters.size());
    const std::vector<size_t> chosen = texts_of(state.update);
    for (const size_t index : chosen) {
      done.loss += text_loss(texts_[index], state.parameters, &gradient) /
                   static_cast<double>(chosen.size());
      done.tokens += static_cast<int64_t>(texts_[index].tokens.size());
    }
    for (float& g : gradient) g /= static_cast<float>(chosen.size());
    if (!std::isfinite(done.loss)) return TrainingEnd::kDiverged;
    done.learning_rate = learning_rate_at(settings_.optimizer, state.update, updates_);
    done.gradient_norm = update_parameters(settings_.optimizer, student_.layout(), state.update,
                                           updates_, gradient, state.moments, state.parameters);
    if (!std::isfinite(done.gradient_norm)) return TrainingEnd::kDiverged;
    done.update = ++state.update;
    if (state.update % settings_.updates_between_checks == 0 || state.update == updates_) {
      check_held_out(state, done);
    }
    if (!report(done, state)) return TrainingEnd::kInterrupted;
  }
  return TrainingEnd::kFinished;
}

}  // namespace kascade::training
