// Sums over scored tokens and the figures that follow from them.
#ifndef KASCADE_SERVER_CORE_SCORE_TOTALS_H_
#define KASCADE_SERVER_CORE_SCORE_TOTALS_H_

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/quality/doubt.h"
#include "engine/request.h"

namespace kascade::core {

struct ScoreTotals {
  int64_t tokens = 0;  // scored
  int64_t words = 0;   // that they stand for
  int64_t bytes = 0;   // likewise
  // Of the run, or of the first run of a comparison; sums of −log p and of its square, nats.
  double nll = 0;
  double nll_squares = 0;
  int64_t top1 = 0;
  AttentionCounts counts{};
  DoubtSums doubt{};  // of the first pass
  // Comparisons only: of the second run, and of both.
  double second_nll = 0;
  double second_nll_squares = 0;
  double difference_squares = 0;  // of log-probabilities
  double kl = 0;
  double kl_squares = 0;
  double max_kl = 0;
  int64_t same_top1 = 0;
  double max_difference = 0;
  AttentionCounts second_counts{};

  void add(const ScoredToken& token);
  void add(const ScoredToken& token, const TokenComparison& comparison);
  ScoreTotals& operator+=(const ScoreTotals& other);
};

// Second − first log-probability.
float logprob_difference(const ScoredToken& token, const TokenComparison& comparison);

// Figures of one run. Errors are standard errors over tokens; 0 for fewer than two.
struct RunFigures {
  double nll_sum = 0;   // nats
  double mean_nll = 0;  // nats per token
  double mean_nll_error = 0;
  double perplexity = 1;  // exp(mean_nll)
  double perplexity_error = 0;
  double top1_ratio = 0;  // share of the tokens that were the most likely one, [0, 1]
  // Unset where the tokens stand for no bytes.
  std::optional<double> bits_per_byte{};
  std::optional<double> byte_perplexity{};
  std::optional<double> word_perplexity{};
  bool suspect = false;  // hardly better than guessing over the vocabulary
  // Why the run is not what a working model reaches on natural text, a sentence each.
  std::vector<std::string> doubts{};
};
RunFigures figures_of(const ScoreTotals& totals, int32_t vocab);

// Probable causes of a suspect or doubtful result, for people.
std::span<const std::string_view> suspect_causes();

struct Percentile {
  double percent = 0;     // 0 to 100
  double difference = 0;  // nats
};

// Figures of a comparison: the second run beside the first, token by token. Differences are second
// − first log-probability, nats.
struct ComparisonFigures {
  double second_nll_sum = 0;
  double second_mean_nll_error = 0;
  double second_perplexity = 1;
  double second_perplexity_error = 0;
  double mean_difference = 0;
  double mean_difference_error = 0;
  // (second perplexity ÷ first perplexity − 1) · 100; unset when the first run is suspect.
  std::optional<double> degradation_percent{};
  std::optional<double> degradation_percent_error{};
  double mean_kl = 0;  // KL(first ‖ second), nats per token
  double mean_kl_error = 0;
  double max_kl = 0;
  double same_top1_ratio = 0;  // [0, 1]
  double max_difference = 0;   // without the sign
  std::array<Percentile, 9> percentiles{};
};
// Reorders `differences`, one for each token of `totals`.
ComparisonFigures compare(const ScoreTotals& totals, bool suspect, std::span<float> differences);

}  // namespace kascade::core

#endif  // KASCADE_SERVER_CORE_SCORE_TOTALS_H_
