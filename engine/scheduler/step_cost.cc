#include "engine/scheduler/step_cost.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <numeric>
#include <utility>

namespace kascade {
namespace {

constexpr double kFewRows = 12;       // see kStepCostNames
constexpr size_t kRemembered = 32;    // steps kept of each magnitude of rows
constexpr int64_t kLeastSteps = 8;    // steps before anything is predicted
constexpr int64_t kEarlySteps = 64;   // up to this many steps, fit after each
constexpr int64_t kFitEvery = 8;      // afterwards, fit after so many steps
constexpr double kTooShort = 200;     // a duration shorter than expected by this factor is ignored
constexpr int kRounds = 4;            // fits; each weights steps by their errors in the one before
constexpr double kUsualError = 0.01;  // lower limit of the usual error
// Ridge regression: divides the coefficient among columns of features that are proportional.
constexpr double kRidge = 1e-7;

using Row = StepCosts;
using Square = std::array<Row, kStepCosts>;

// A measured step, divided by its duration: the fit should reach 1.
struct Observation {
  Row row{};
  double weight = 1;
};

// Solves the rows and columns `used` of a · c = b, where a is symmetric and positive definite.
Row solve(Square a, Row b, const std::vector<size_t>& used) {
  for (size_t k = 0; k < used.size(); ++k) {
    for (size_t i = k + 1; i < used.size(); ++i) {
      const double factor = a[used[i]][used[k]] / a[used[k]][used[k]];
      for (size_t j = k; j < used.size(); ++j) a[used[i]][used[j]] -= factor * a[used[k]][used[j]];
      b[used[i]] -= factor * b[used[k]];
    }
  }
  Row c{};
  for (size_t k = used.size(); k-- > 0;) {
    double left = b[used[k]];
    for (size_t j = k + 1; j < used.size(); ++j) left -= a[used[k]][used[j]] * c[used[j]];
    c[used[k]] = left / a[used[k]][used[k]];
  }
  return c;
}

// Returns c ≥ 0 that makes Σ weight · (row · c − 1)² small. A coefficient that would be negative is
// set to 0.
Row fit_nonnegative(const std::vector<Observation>& observations) {
  Square products{};
  Row sums{};
  for (const Observation& o : observations) {
    for (size_t i = 0; i < kStepCosts; ++i) {
      sums[i] += o.weight * o.row[i];
      for (size_t j = 0; j < kStepCosts; ++j) products[i][j] += o.weight * o.row[i] * o.row[j];
    }
  }
  std::vector<size_t> used;
  for (size_t i = 0; i < kStepCosts; ++i) {
    if (products[i][i] > 0) used.push_back(i);
    products[i][i] += kRidge;
  }
  while (!used.empty()) {
    const Row found = solve(products, sums, used);
    const auto lowest = std::ranges::min_element(used, {}, [&](size_t i) { return found[i]; });
    if (found[*lowest] >= 0) return found;
    used.erase(lowest);
  }
  return {};
}

double dot(const Row& a, const Row& b) {
  return std::inner_product(a.begin(), a.end(), b.begin(), 0.0);
}

// Sets the weights of the observations by their errors. A step whose error is many times the usual
// one, for example because another process took a core, counts almost nothing.
void reweight(const Row& coefficients, std::vector<Observation>& observations) {
  std::vector<double> errors;
  for (const Observation& o : observations)
    errors.push_back(std::abs(dot(o.row, coefficients) - 1));
  std::vector<double> sorted = errors;
  const auto middle = sorted.begin() + static_cast<std::ptrdiff_t>(sorted.size() / 2);
  std::nth_element(sorted.begin(), middle, sorted.end());
  const double usual = std::max(*middle, kUsualError);
  for (size_t i = 0; i < observations.size(); ++i) {
    const double far = errors[i] / (3 * usual);
    observations[i].weight = 1 / ((1 + far * far) * (1 + far * far));
  }
}

}  // namespace

StepFeatures& StepFeatures::operator+=(const StepFeatures& other) {
  rows += other.rows;
  logit_rows += other.logit_rows;
  tile_keys_attended += other.tile_keys_attended;
  row_keys_attended += other.row_keys_attended;
  tile_keys_scored += other.tile_keys_scored;
  row_keys_scored += other.row_keys_scored;
  observed_rows += other.observed_rows;
  observed_keys += other.observed_keys;
  return *this;
}

StepCosts StepCost::amounts_of(const StepFeatures& features) {
  return {1,
          features.rows,
          std::max(0.0, features.rows - kFewRows),
          features.logit_rows,
          features.tile_keys_attended,
          features.row_keys_attended,
          features.tile_keys_scored,
          features.row_keys_scored,
          features.observed_rows,
          features.observed_keys};
}

void StepCost::observe(const StepFeatures& features, double seconds) {
  const StepCosts amounts = amounts_of(features);
  const bool sound = std::ranges::all_of(
      amounts, [](double amount) { return std::isfinite(amount) && amount >= 0; });
  if (!sound || !std::isfinite(seconds) || seconds <= 0) return;
  // The relative error of a duration that is too short is at most 1, so reweight() would keep it.
  if (seconds * kTooShort < predict(features).value_or(0)) return;
  const auto rows = static_cast<uint64_t>(std::min(features.rows, 1e6));
  Recent& recent = recent_[features.is_observed() ? 1 : 0][std::min<size_t>(
      static_cast<size_t>(std::bit_width(rows)), kMagnitudes - 1)];
  if (recent.steps.size() < kRemembered) {
    recent.steps.push_back({amounts, seconds});
  } else {
    recent.steps[recent.next] = {amounts, seconds};
    recent.next = (recent.next + 1) % kRemembered;
  }
  ++learned_;
  if (features.is_observed()) ++learned_observed_;
  const bool is_early =
      learned_ <= kEarlySteps || (features.is_observed() && learned_observed_ <= kEarlySteps);
  if (learned_ >= kLeastSteps && (is_early || learned_ % kFitEvery == 0)) fit();
}

void StepCost::fit() {
  std::vector<Observation> observations;
  Row lengths{};
  const auto add = [&](const Step& step) {
    Observation& o = observations.emplace_back();
    for (size_t i = 0; i < kStepCosts; ++i) {
      o.row[i] = step.amounts[i] / step.seconds;
      lengths[i] += o.row[i] * o.row[i];
    }
  };
  for (const auto& kind : recent_) {
    for (const Recent& recent : kind) std::ranges::for_each(recent.steps, add);
  }
  for (double& length : lengths) length = length > 0 ? std::sqrt(length) : 1;
  for (Observation& o : observations) {
    for (size_t i = 0; i < kStepCosts; ++i) o.row[i] /= lengths[i];
  }
  Row found = fit_nonnegative(observations);
  for (int round = 1; round < kRounds; ++round) {
    reweight(found, observations);
    found = fit_nonnegative(observations);
  }
  for (size_t i = 0; i < kStepCosts; ++i) costs_[i] = found[i] / lengths[i];
}

std::optional<double> StepCost::predict(const StepFeatures& features) const {
  const bool is_known =
      learned_ >= kLeastSteps && (!features.is_observed() || learned_observed_ >= kLeastSteps);
  if (!is_known) return std::nullopt;
  return dot(amounts_of(features), costs_);
}

}  // namespace kascade
