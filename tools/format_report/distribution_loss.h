// How far one distribution over the vocabulary is from another, and sums of that over tokens.
#ifndef KASCADE_TOOLS_FORMAT_REPORT_DISTRIBUTION_LOSS_H_
#define KASCADE_TOOLS_FORMAT_REPORT_DISTRIBUTION_LOSS_H_

#include <span>
#include <vector>

#include "engine/base/types.h"
#include "engine/quality/comparison.h"

namespace kascade::format_report {

// The next-token distributions of two runs at one position.
struct TokenLoss {
  double first_logprob = 0;   // log p(target) in the first run [nats]
  double second_logprob = 0;  // the same in the second run
  double kl = 0;              // KL(first ‖ second) over the whole vocabulary [nats], ≥ 0
  // Both have the same most likely token; of equally likely ones the lowest id counts.
  bool same_top1 = false;
};

class DistributionComparison {
 public:
  // `first` and `second` are logits, f32 [vocab], all finite. Everything is computed in f64.
  TokenLoss compare(std::span<const float> first, std::span<const float> second, Token target);

 private:
  std::vector<double> exponentials_{};  // [vocab] exp(first − its maximum)
};

// Over the compared tokens of one or more windows. The first run is the one with f32 weights.
struct LossSums {
  ComparisonSums sums{};
  double kl_squares = 0;
  std::vector<float> kl{};  // of each token, for percentiles

  void add(const TokenLoss& loss);
  void add(const LossSums& other);
};

}  // namespace kascade::format_report

#endif  // KASCADE_TOOLS_FORMAT_REPORT_DISTRIBUTION_LOSS_H_
