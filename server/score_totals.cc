#include "server/score_totals.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "engine/quality/standard_error.h"

namespace kascade::server {
namespace {

constexpr const char* kSuspectCauses[] = {
    "the tokenizer does not belong to the weights",
    "the weights' rotary layout (half-split or interleaved) is not the one the model was saved in",
    "gate and up projections were swapped when the checkpoint was converted",
    "rope_theta or rope_scaling of config.json does not belong to the weights",
    "the weights are damaged or were never trained",
    "the text is not of a kind the model knows, or its BOS is missing",
};

constexpr double kPercents[] = {0.1, 1, 5, 25, 50, 75, 95, 99, 99.9};

// Reorders `values`, but does not sort them: a million would hold up the engine's thread.
double percentile(std::span<float> values, double percent) {
  const double place = percent / 100 * static_cast<double>(values.size() - 1);
  const auto below = values.begin() + static_cast<ptrdiff_t>(place);
  std::nth_element(values.begin(), below, values.end());
  const double low = *below;
  const auto above = std::min_element(below + 1, values.end());
  if (above == values.end()) return low;
  return low + (place - std::floor(place)) * (double{*above} - low);
}

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
  const double sparse_loss = -double{comparison.second.logprob};
  sparse_nll += sparse_loss;
  sparse_nll_squares += sparse_loss * sparse_loss;
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
  sparse_nll += other.sparse_nll;
  sparse_nll_squares += other.sparse_nll_squares;
  difference_squares += other.difference_squares;
  kl += other.kl;
  kl_squares += other.kl_squares;
  max_kl = std::max(max_kl, other.max_kl);
  same_top1 += other.same_top1;
  max_difference = std::max(max_difference, other.max_difference);
  counts += other.counts;
  return *this;
}

void summarize(const ScoreTotals& totals, int32_t vocab, v1::ScoreSummary& out) {
  const auto tokens = static_cast<double>(totals.tokens);
  const double mean = totals.nll / tokens;
  out.set_tokens_scored(totals.tokens);
  out.set_words_scored(totals.words);
  out.set_bytes_scored(totals.bytes);
  out.set_nll_sum(totals.nll);
  out.set_mean_nll(mean);
  out.set_mean_nll_standard_error(standard_error(totals.nll, totals.nll_squares, totals.tokens));
  out.set_perplexity(std::exp(mean));
  out.set_perplexity_standard_error(std::exp(mean) * out.mean_nll_standard_error());
  if (totals.bytes > 0) {
    const double per_byte = totals.nll / static_cast<double>(totals.bytes);
    out.set_bits_per_byte(per_byte / std::numbers::ln2);
    out.set_byte_perplexity(std::exp(per_byte));
    out.set_word_perplexity(std::exp(totals.nll / static_cast<double>(totals.words)));
  }
  out.set_top1_ratio(static_cast<double>(totals.top1) / tokens);
  const bool suspect = !(mean <= std::log(static_cast<double>(vocab)) - 1);
  out.set_suspect(suspect);
  if (suspect) {
    for (const char* cause : kSuspectCauses) out.add_suspect_causes(cause);
  }
}

void compare(const ScoreTotals& totals, bool suspect, std::span<float> differences,
             v1::Comparison& out) {
  const auto tokens = static_cast<double>(totals.tokens);
  const double sparse_mean = totals.sparse_nll / tokens;
  const double sparse_error =
      standard_error(totals.sparse_nll, totals.sparse_nll_squares, totals.tokens);
  const double difference = totals.nll - totals.sparse_nll;
  const double difference_error =
      standard_error(difference, totals.difference_squares, totals.tokens);
  out.set_sparse_nll_sum(totals.sparse_nll);
  out.set_sparse_mean_nll_standard_error(sparse_error);
  out.set_sparse_perplexity(std::exp(sparse_mean));
  out.set_sparse_perplexity_standard_error(std::exp(sparse_mean) * sparse_error);
  out.set_mean_logprob_difference(difference / tokens);
  out.set_mean_logprob_difference_standard_error(difference_error);
  if (!suspect) {
    out.set_degradation_percent(std::expm1(-difference / tokens) * 100);
    out.set_degradation_percent_standard_error(std::exp(-difference / tokens) * difference_error *
                                               100);
  }
  out.set_mean_kl(totals.kl / tokens);
  out.set_mean_kl_standard_error(standard_error(totals.kl, totals.kl_squares, totals.tokens));
  out.set_max_kl(totals.max_kl);
  out.set_same_top1_ratio(static_cast<double>(totals.same_top1) / tokens);
  out.set_max_logprob_difference(totals.max_difference);
  for (const double percent : kPercents) {
    auto& entry = *out.add_logprob_difference_percentiles();
    entry.set_percent(percent);
    entry.set_difference(percentile(differences, percent));
  }
}

}  // namespace kascade::server
