#include "tests/bench/statistics.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <numeric>
#include <optional>

#include "engine/check.h"

namespace kascade::bench {
namespace {

using Matrix = std::vector<std::vector<double>>;

// Share of a column's own square that must remain beside the other columns.
constexpr double kIndependent = 1e-9;

// Solves the symmetric system by elimination; nothing when a column follows from those before.
std::optional<std::vector<double>> solve(Matrix a, std::vector<double> b) {
  const size_t size = b.size();
  for (size_t column = 0; column < size; ++column) {
    if (a[column][column] < kIndependent) return std::nullopt;
    for (size_t row = column + 1; row < size; ++row) {
      const double factor = a[row][column] / a[column][column];
      for (size_t i = column; i < size; ++i) a[row][i] -= factor * a[column][i];
      b[row] -= factor * b[column];
    }
  }
  for (size_t row = size; row-- > 0;) {
    for (size_t i = row + 1; i < size; ++i) b[row] -= a[row][i] * b[i];
    b[row] /= a[row][row];
  }
  return b;
}

// Columns divided by their lengths, rows by their targets.
struct Scaled {
  Matrix rows;
  std::vector<double> lengths;
};

Scaled scale(const Matrix& features, const std::vector<double>& targets) {
  Scaled scaled{features, std::vector<double>(features.front().size(), 0.0)};
  for (size_t row = 0; row < features.size(); ++row) {
    KASCADE_CHECK(targets[row] > 0);
    for (size_t i = 0; i < scaled.lengths.size(); ++i) {
      scaled.rows[row][i] /= targets[row];
      scaled.lengths[i] += scaled.rows[row][i] * scaled.rows[row][i];
    }
  }
  for (double& length : scaled.lengths) length = length > 0 ? std::sqrt(length) : 1;
  for (auto& row : scaled.rows) {
    for (size_t i = 0; i < row.size(); ++i) row[i] /= scaled.lengths[i];
  }
  return scaled;
}

// Of Σ (row · c − 1)², over the columns `used`.
std::optional<std::vector<double>> least_squares(const Matrix& rows,
                                                 const std::vector<size_t>& used) {
  Matrix products(used.size(), std::vector<double>(used.size(), 0.0));
  std::vector<double> sums(used.size(), 0.0);
  for (const auto& row : rows) {
    for (size_t i = 0; i < used.size(); ++i) {
      sums[i] += row[used[i]];
      for (size_t j = 0; j < used.size(); ++j) products[i][j] += row[used[i]] * row[used[j]];
    }
  }
  return solve(std::move(products), std::move(sums));
}

}  // namespace

Summary summarize(std::vector<double> values) {
  if (values.empty()) return {};
  std::ranges::sort(values);
  const size_t middle = values.size() / 2;
  const double median =
      values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
  return {median, values.front(), values.back()};
}

std::vector<double> fit_nonnegative(const std::vector<std::vector<double>>& features,
                                    const std::vector<double>& targets) {
  KASCADE_CHECK(!features.empty() && features.size() == targets.size());
  const Scaled scaled = scale(features, targets);
  std::vector<double> coefficients(scaled.lengths.size(), 0.0);
  std::vector<size_t> used(coefficients.size());
  std::iota(used.begin(), used.end(), size_t{0});
  while (!used.empty()) {
    const auto found = least_squares(scaled.rows, used);
    if (!found) {
      used.pop_back();
      continue;
    }
    const auto lowest = std::ranges::min_element(*found);
    if (*lowest < 0) {
      used.erase(used.begin() + (lowest - found->begin()));
      continue;
    }
    for (size_t i = 0; i < used.size(); ++i) {
      coefficients[used[i]] = (*found)[i] / scaled.lengths[used[i]];
    }
    break;
  }
  return coefficients;
}

double predict(const std::vector<double>& features, const std::vector<double>& coefficients) {
  return std::inner_product(features.begin(), features.end(), coefficients.begin(), 0.0);
}

}  // namespace kascade::bench
