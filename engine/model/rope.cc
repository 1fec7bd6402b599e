#include "engine/model/rope.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <numbers>

#include "engine/model/config.h"

namespace kascade {
namespace {

// The functions named scale() take the frequencies without scaling.
void scale(const LinearRopeScaling& scaling, const ModelConfig& /*config*/,
           std::vector<double>& frequencies) {
  for (double& frequency : frequencies) frequency /= scaling.factor;
}

void scale(const Llama3RopeScaling& scaling, const ModelConfig& /*config*/,
           std::vector<double>& frequencies) {
  for (double& frequency : frequencies) {
    // The number of turns that the pair makes within the context of the model's first training.
    const double turns = scaling.original_context * frequency / (2 * std::numbers::pi);
    const double blend =
        (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor);
    const double kept = std::clamp(blend, 0.0, 1.0);
    frequency *= kept + (1 - kept) / scaling.factor;
  }
}

void scale(const YarnRopeScaling& scaling, const ModelConfig& config,
           std::vector<double>& frequencies) {
  // The index of the pair that makes this many turns within the original context.
  const auto index_of = [&](double turns) {
    const double wavelengths = scaling.original_context / (turns * 2 * std::numbers::pi);
    return config.head_dim * std::log(wavelengths) / (2 * std::log(config.rope_theta));
  };
  double first = index_of(scaling.beta_fast), last = index_of(scaling.beta_slow);
  if (scaling.truncate) {
    first = std::floor(first);
    last = std::ceil(last);
  }
  first = std::max(first, 0.0);
  last = std::min(last, config.head_dim - 1.0);
  // As in the published code, so that a blend of no width is a step and not a division by 0.
  if (first == last) last += 0.001;
  for (size_t pair = 0; pair < frequencies.size(); ++pair) {
    const double blend = (static_cast<double>(pair) - first) / (last - first);
    const double kept = 1 - std::clamp(blend, 0.0, 1.0);
    frequencies[pair] *= kept + (1 - kept) / scaling.factor;
  }
}

}  // namespace

double yarn_magnitude(double factor, double strength) {
  return factor <= 1 ? 1 : 0.1 * strength * std::log(factor) + 1;
}

std::string_view name_of(const RopeScaling& scaling) {
  constexpr std::string_view kNames[] = {"linear", "llama3", "yarn"};
  return kNames[scaling.index()];
}

double factor_of(const RopeScaling& scaling) {
  return std::visit([](const auto& kind) { return kind.factor; }, scaling);
}

std::vector<double> rope_frequencies(const ModelConfig& config) {
  std::vector<double> frequencies(static_cast<size_t>(config.head_dim / 2));
  for (size_t pair = 0; pair < frequencies.size(); ++pair) {
    const double exponent = -2.0 * static_cast<double>(pair) / config.head_dim;
    frequencies[pair] = std::pow(config.rope_theta, exponent);
  }
  if (config.rope_scaling) {
    std::visit([&](const auto& kind) { scale(kind, config, frequencies); }, *config.rope_scaling);
  }
  return frequencies;
}

double rope_magnitude(const ModelConfig& config) {
  if (!config.rope_scaling) return 1;
  const auto* yarn = std::get_if<YarnRopeScaling>(&*config.rope_scaling);
  return yarn != nullptr ? yarn->magnitude : 1;
}

}  // namespace kascade
