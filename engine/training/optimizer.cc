#include "engine/training/optimizer.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <string>

#include "absl/strings/str_cat.h"

namespace kascade::training {

absl::StatusOr<Decay> decay_named(std::string_view name) {
  if (name == "linear") return Decay::kLinear;
  if (name == "cosine") return Decay::kCosine;
  if (name == "none") return Decay::kNone;
  return absl::InvalidArgumentError(
      absl::StrCat("decay: must be linear, cosine or none, is \"", std::string(name), "\""));
}

double learning_rate_at(const OptimizerSettings& settings, int64_t update, int64_t updates) {
  const double warmup = settings.warmup_ratio * static_cast<double>(updates);
  const auto done = static_cast<double>(update);
  if (done < warmup) return settings.learning_rate * (done + 1) / std::max(warmup, 1.0);
  const double rest = std::max(static_cast<double>(updates) - warmup, 1.0);
  const double progress = std::min((done - warmup) / rest, 1.0);
  switch (settings.decay) {
    case Decay::kLinear:
      return settings.learning_rate * (1 - progress);
    case Decay::kCosine:
      return settings.learning_rate * (1 + std::cos(std::numbers::pi * progress)) / 2;
    case Decay::kNone:
      break;
  }
  return settings.learning_rate;
}

double update_parameters(const OptimizerSettings& settings, const LayerParameters& layer,
                         int64_t update, int64_t updates, std::span<const float> gradient,
                         Moments& moments, std::span<float> parameters) {
  double squares = 0;
  for (const float g : gradient) squares += double{g} * g;
  const double norm = std::sqrt(squares);
  if (!std::isfinite(norm)) return norm;
  const double clip =
      settings.clip_norm > 0 && norm > settings.clip_norm ? settings.clip_norm / norm : 1;
  const double rate = learning_rate_at(settings, update, updates);
  const double correction1 = 1 - std::pow(settings.beta1, update + 1);
  const double correction2 = 1 - std::pow(settings.beta2, update + 1);
  const auto change = [&](size_t i, double decay) {
    const double g = gradient[i] * clip;
    const double first = settings.beta1 * moments.first[i] + (1 - settings.beta1) * g;
    const double second = settings.beta2 * moments.second[i] + (1 - settings.beta2) * g * g;
    moments.first[i] = static_cast<float>(first);
    moments.second[i] = static_cast<float>(second);
    const double step = first / correction1 / (std::sqrt(second / correction2) + settings.epsilon);
    parameters[i] = static_cast<float>(parameters[i] - rate * (step + decay * parameters[i]));
  };
  const std::vector<const AdapterTensor*> tensors = layer.present();
  for (size_t begin = 0; begin < parameters.size(); begin += static_cast<size_t>(layer.size)) {
    for (const AdapterTensor* tensor : tensors) {
      const double decay = tensor->decays ? settings.weight_decay : 0;
      for (int64_t i = 0; i < tensor->size(); ++i) change(begin + tensor->offset + i, decay);
    }
  }
  return norm;
}

}  // namespace kascade::training
