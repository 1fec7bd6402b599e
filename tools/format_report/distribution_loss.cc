#include "tools/format_report/distribution_loss.h"

#include <algorithm>
#include <cmath>
#include <cstddef>

#include "engine/base/check.h"
#include "engine/base/softmax.h"

namespace kascade::format_report {

TokenLoss DistributionComparison::compare(std::span<const float> first,
                                          std::span<const float> second, Token target) {
  KASCADE_CHECK(first.size() == second.size() && target >= 0 &&
                static_cast<size_t>(target) < first.size());
  const int64_t first_best = largest_of(first), second_best = largest_of(second);
  const double first_max = first[static_cast<size_t>(first_best)];
  const double second_max = second[static_cast<size_t>(second_best)];
  exponentials_.resize(first.size());
  double first_sum = 0, second_sum = 0;
  for (size_t i = 0; i < first.size(); ++i) {
    exponentials_[i] = std::exp(first[i] - first_max);
    first_sum += exponentials_[i];
    second_sum += std::exp(second[i] - second_max);
  }
  const double first_log_sum = first_max + std::log(first_sum);
  const double second_log_sum = second_max + std::log(second_sum);
  // Differences of log-probabilities are small; their sum must not be the difference of large ones.
  const double shift = first_log_sum - second_log_sum;
  double kl = 0;
  for (size_t i = 0; i < first.size(); ++i) {
    kl += exponentials_[i] * (double{first[i]} - double{second[i]} - shift);
  }
  const auto index = static_cast<size_t>(target);
  return {.first_logprob = first[index] - first_log_sum,
          .second_logprob = second[index] - second_log_sum,
          .kl = std::max(0.0, kl / first_sum),
          .same_top1 = first_best == second_best};
}

void LossSums::add(const TokenLoss& loss) {
  sums.add(loss.first_logprob, loss.second_logprob, loss.kl, loss.same_top1);
  kl_squares += loss.kl * loss.kl;
  kl.push_back(static_cast<float>(loss.kl));
}

void LossSums::add(const LossSums& other) {
  sums.tokens += other.sums.tokens;
  sums.first_nll += other.sums.first_nll;
  sums.second_nll += other.sums.second_nll;
  sums.difference_squares += other.sums.difference_squares;
  sums.kl += other.sums.kl;
  sums.same_top1 += other.sums.same_top1;
  kl_squares += other.kl_squares;
  kl.insert(kl.end(), other.kl.begin(), other.kl.end());
}

}  // namespace kascade::format_report
