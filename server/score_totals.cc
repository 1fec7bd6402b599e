#include "server/score_totals.h"

#include <algorithm>
#include <cmath>
#include <numbers>

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

void compare(const ScoreTotals& totals, double mean_nll, bool suspect, v1::Comparison& out) {
  const auto tokens = static_cast<double>(totals.tokens);
  const double sparse_mean = totals.sparse_nll / tokens;
  out.set_sparse_nll_sum(totals.sparse_nll);
  out.set_sparse_perplexity(std::exp(sparse_mean));
  if (!suspect) out.set_degradation_percent(std::expm1(sparse_mean - mean_nll) * 100);
  out.set_mean_kl(totals.kl / tokens);
  out.set_same_top1_ratio(static_cast<double>(totals.same_top1) / tokens);
  out.set_max_logprob_difference(totals.max_difference);
}

}  // namespace

void ScoreTotals::add(const ScoredToken& token) {
  const double loss = -double{token.logprob};
  ++tokens;
  nll += loss;
  nll_squares += loss * loss;
  top1 += token.is_top1 ? 1 : 0;
}

void ScoreTotals::add(const ScoredToken& token, const Comparison& comparison) {
  add(token);
  const double difference = double{token.logprob} - double{comparison.sparse.logprob};
  sparse_nll -= double{comparison.sparse.logprob};
  kl += double{comparison.kl};
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
  kl += other.kl;
  same_top1 += other.same_top1;
  max_difference = std::max(max_difference, other.max_difference);
  counts += other.counts;
  return *this;
}

void summarize(const ScoreTotals& totals, bool compared, int32_t vocab, v1::ScoreSummary& out) {
  const auto tokens = static_cast<double>(totals.tokens);
  const double mean = totals.nll / tokens;
  out.set_tokens_scored(totals.tokens);
  out.set_words_scored(totals.words);
  out.set_bytes_scored(totals.bytes);
  out.set_nll_sum(totals.nll);
  out.set_mean_nll(mean);
  if (totals.tokens > 1) {
    const double variance = std::max(0.0, totals.nll_squares - tokens * mean * mean) / (tokens - 1);
    out.set_mean_nll_standard_error(std::sqrt(variance / tokens));
  }
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
  if (compared) compare(totals, mean, suspect, *out.mutable_comparison());
}

}  // namespace kascade::server
