// Rotary position embedding: by which angles queries and keys are rotated, and how models that were
// trained further on longer texts change these angles.
#ifndef KASCADE_ENGINE_MODEL_ROPE_H_
#define KASCADE_ENGINE_MODEL_ROPE_H_

#include <cstdint>
#include <string_view>
#include <variant>
#include <vector>

namespace kascade {

struct ModelConfig;

// All frequencies are divided by `factor`.
struct LinearRopeScaling {
  double factor = 1;  // ≥ 1

  bool operator==(const LinearRopeScaling&) const = default;
};

// Llama 3's scaling of the low rotary frequencies.
struct Llama3RopeScaling {
  double factor = 8;
  double low_freq_factor = 1;
  double high_freq_factor = 4;
  int32_t original_context = 8192;

  bool operator==(const Llama3RopeScaling&) const = default;
};

// YaRN: pairs that turn more than beta_fast times within the original context keep their frequency,
// those that turn less than beta_slow times have it divided by `factor`, and those between are
// blended in order of their index. Rotated queries and keys are longer by `magnitude`.
struct YarnRopeScaling {
  double factor = 1;             // ≥ 1
  int32_t original_context = 0;  // tokens, ≥ 1
  double beta_fast = 32;
  double beta_slow = 1;  // < beta_fast
  bool truncate = true;  // whether the blend begins and ends at whole indices
  double magnitude = 1;  // by default yarn_magnitude(factor)

  bool operator==(const YarnRopeScaling&) const = default;
};
// 0.1 · strength · ln(factor) + 1, the magnitude that YaRN recommends with strength 1.
double yarn_magnitude(double factor, double strength = 1);

using RopeScaling = std::variant<LinearRopeScaling, Llama3RopeScaling, YarnRopeScaling>;

// The value of `rope_type` in config.json: "linear", "llama3", "yarn".
std::string_view name_of(const RopeScaling& scaling);
double factor_of(const RopeScaling& scaling);

// The angular frequency of each rotary pair, [head_dim / 2], with rope scaling applied, in double.
std::vector<double> rope_frequencies(const ModelConfig& config);
// By how much a rotation lengthens queries and keys: 1 except with YaRN.
double rope_magnitude(const ModelConfig& config);

}  // namespace kascade

#endif  // KASCADE_ENGINE_MODEL_ROPE_H_
