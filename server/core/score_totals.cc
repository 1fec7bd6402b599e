#include "server/core/score_totals.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "engine/quality/paired_difference.h"
#include "engine/quality/percentile.h"
#include "engine/quality/perplexity.h"
#include "engine/quality/standard_error.h"

namespace kascade::core {
namespace {

constexpr std::string_view kSuspectCauses[] = {
    "the tokenizer does not belong to the weights",
    "the weights' rotary layout (half-split or interleaved) is not the one the model was saved in",
    "gate and up projections were swapped when the checkpoint was converted",
    "rope_theta or rope_scaling of config.json does not belong to the weights",
    "the weights are damaged or were never trained",
    "the text is not of a kind the model knows, or its BOS is missing",
};

constexpr double kPercents[] = {0.1, 1, 5, 25, 50, 75, 95, 99, 99.9};

}  // namespace

float logprob_difference(const ScoredToken& token, const TokenComparison& comparison) {
  return comparison.second.logprob - token.logprob;
}

void ScoreTotals::add(const ScoredToken& token) {
  const double loss = -double{token.logprob};
  ++tokens;
  nll += loss;
  nll_squares += loss * loss;
  top1 += token.is_top1 ? 1 : 0;
}

void ScoreTotals::add(const ScoredToken& token, const TokenComparison& comparison) {
  add(token);
  const double difference = double{token.logprob} - double{comparison.second.logprob};
  const double second_loss = -double{comparison.second.logprob};
  second_nll += second_loss;
  second_nll_squares += second_loss * second_loss;
  difference_squares += difference * difference;
  kl += double{comparison.kl};
  kl_squares += double{comparison.kl} * double{comparison.kl};
  max_kl = std::max(max_kl, double{comparison.kl});
  same_top1 += comparison.same_top1 ? 1 : 0;
  max_difference = std::max(max_difference, std::abs(difference));
}

ScoreTotals& ScoreTotals::operator+=(const ScoreTotals& other) {
  tokens += other.tokens;
  words += other.words;
  bytes += other.bytes;
  nll += other.nll;
  nll_squares += other.nll_squares;
  top1 += other.top1;
  second_nll += other.second_nll;
  second_nll_squares += other.second_nll_squares;
  difference_squares += other.difference_squares;
  kl += other.kl;
  kl_squares += other.kl_squares;
  max_kl = std::max(max_kl, other.max_kl);
  same_top1 += other.same_top1;
  max_difference = std::max(max_difference, other.max_difference);
  counts += other.counts;
  doubt += other.doubt;
  second_counts += other.second_counts;
  return *this;
}

std::span<const std::string_view> suspect_causes() { return kSuspectCauses; }

RunFigures figures_of(const ScoreTotals& totals, int32_t vocab) {
  const auto tokens = static_cast<double>(totals.tokens);
  const double mean = mean_nll(totals.nll, totals.tokens);
  RunFigures out{.nll_sum = totals.nll,
                 .mean_nll = mean,
                 .mean_nll_error = standard_error(totals.nll, totals.nll_squares, totals.tokens),
                 .perplexity = perplexity(mean),
                 .top1_ratio = static_cast<double>(totals.top1) / tokens,
                 .suspect = is_suspect(mean, vocab),
                 .doubts = doubts(mean, totals.tokens, totals.doubt)};
  out.perplexity_error = out.perplexity * out.mean_nll_error;
  if (totals.bytes > 0) {
    const double per_byte = totals.nll / static_cast<double>(totals.bytes);
    out.bits_per_byte = per_byte / std::numbers::ln2;
    out.byte_perplexity = std::exp(per_byte);
    out.word_perplexity = std::exp(totals.nll / static_cast<double>(totals.words));
  }
  return out;
}

ComparisonFigures compare(const ScoreTotals& totals, bool suspect, std::span<float> differences) {
  const auto tokens = static_cast<double>(totals.tokens);
  const double second_perplexity = perplexity(mean_nll(totals.second_nll, totals.tokens));
  const double second_error =
      standard_error(totals.second_nll, totals.second_nll_squares, totals.tokens);
  const PairedDifference difference =
      paired_difference(totals.nll - totals.second_nll, totals.difference_squares, totals.tokens);
  ComparisonFigures out{
      .second_nll_sum = totals.second_nll,
      .second_mean_nll_error = second_error,
      .second_perplexity = second_perplexity,
      .second_perplexity_error = second_perplexity * second_error,
      .mean_difference = difference.mean,
      .mean_difference_error = difference.error,
      .mean_kl = totals.kl / tokens,
      .mean_kl_error = standard_error(totals.kl, totals.kl_squares, totals.tokens),
      .max_kl = totals.max_kl,
      .same_top1_ratio = static_cast<double>(totals.same_top1) / tokens,
      .max_difference = totals.max_difference};
  if (!suspect) {
    out.degradation_percent = std::expm1(-difference.mean) * 100;
    out.degradation_percent_error = std::exp(-difference.mean) * difference.error * 100;
  }
  for (size_t i = 0; i < out.percentiles.size(); ++i) {
    out.percentiles[i] = {kPercents[i], percentile(differences, kPercents[i])};
  }
  return out;
}

}  // namespace kascade::core
