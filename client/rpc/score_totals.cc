#include "client/rpc/score_totals.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <span>

namespace kascade::client {
namespace {

// The sum over tokens of a figure and of its square, from means and their standard errors.
struct Sums {
  double count = 0;
  double sum = 0;
  double squares = 0;

  void add(double mean, double error, double tokens) {
    count += tokens;
    sum += mean * tokens;
    squares += mean * mean * tokens + error * error * tokens * (tokens - 1);
  }
  double mean() const { return sum / count; }
  double error() const {
    if (count < 2) return 0;
    return std::sqrt(std::max(0.0, squares - sum * sum / count) / (count - 1) / count);
  }
};

using Totals = std::span<const v1::ScoreSummary>;

double tokens_of(const v1::ScoreSummary& total) {
  return static_cast<double>(total.tokens_scored());
}

// Σ value · tokens ÷ Σ tokens.
double mean_over_tokens(Totals totals,
                        const std::function<double(const v1::ScoreSummary&)>& value) {
  double sum = 0, count = 0;
  for (const auto& total : totals) {
    sum += value(total) * tokens_of(total);
    count += tokens_of(total);
  }
  return sum / count;
}

// The ratios of a report are weighted by their causal keys, to which the bytes of a dense run are
// proportional.
v1::AttentionReport combined(
    Totals totals,
    const std::function<const v1::AttentionReport&(const v1::ScoreSummary&)>& report_of) {
  v1::AttentionReport out = report_of(totals.front());
  double attended = 0, scored = 0, read = 0, dense = 0;
  int64_t positions = 0, dense_positions = 0;
  for (const auto& total : totals) {
    const v1::AttentionReport& report = report_of(total);
    const auto count = static_cast<double>(report.positions());
    const double causal = report.dense_kv_bytes_read_per_token() * count;
    attended += report.keys_attended_ratio() * causal;
    scored += report.keys_scored_ratio() * causal;
    read += report.kv_bytes_read_per_token() * count;
    dense += causal;
    positions += report.positions();
    dense_positions += report.dense_positions();
  }
  out.set_positions(positions);
  out.set_dense_positions(dense_positions);
  if (positions == 0 || dense == 0) return out;
  out.set_keys_attended_ratio(attended / dense);
  out.set_keys_scored_ratio(scored / dense);
  out.set_kv_bytes_read_per_token(read / static_cast<double>(positions));
  out.set_dense_kv_bytes_read_per_token(dense / static_cast<double>(positions));
  return out;
}

// As the server defines it: see LogprobPercentile. Reorders `values`.
double percentile(std::span<float> values, double percent) {
  const double place = percent / 100 * static_cast<double>(values.size() - 1);
  const auto below = values.begin() + static_cast<ptrdiff_t>(place);
  std::nth_element(values.begin(), below, values.end());
  const double low = *below;
  const auto above = std::min_element(below + 1, values.end());
  if (above == values.end()) return low;
  return low + (place - std::floor(place)) * (double{*above} - low);
}

v1::Comparison combined(
    Totals totals, bool suspect,
    const std::function<const v1::Comparison&(const v1::ScoreSummary&)>& comparison_of) {
  v1::Comparison out;
  Sums second, difference, kl;
  for (const auto& total : totals) {
    const v1::Comparison& part = comparison_of(total);
    const double tokens = tokens_of(total);
    out.set_sparse_nll_sum(out.sparse_nll_sum() + part.sparse_nll_sum());
    second.add(part.sparse_nll_sum() / tokens, part.sparse_mean_nll_standard_error(), tokens);
    difference.add(part.mean_logprob_difference(), part.mean_logprob_difference_standard_error(),
                   tokens);
    kl.add(part.mean_kl(), part.mean_kl_standard_error(), tokens);
    out.set_max_kl(std::max(out.max_kl(), part.max_kl()));
    out.set_max_logprob_difference(
        std::max(out.max_logprob_difference(), part.max_logprob_difference()));
  }
  out.set_sparse_perplexity(std::exp(second.mean()));
  out.set_sparse_mean_nll_standard_error(second.error());
  out.set_sparse_perplexity_standard_error(out.sparse_perplexity() * second.error());
  out.set_mean_logprob_difference(difference.mean());
  out.set_mean_logprob_difference_standard_error(difference.error());
  out.set_mean_kl(kl.mean());
  out.set_mean_kl_standard_error(kl.error());
  out.set_same_top1_ratio(mean_over_tokens(totals, [&](const v1::ScoreSummary& total) {
    return comparison_of(total).same_top1_ratio();
  }));
  if (suspect) return out;
  out.set_degradation_percent(std::expm1(-difference.mean()) * 100);
  out.set_degradation_percent_standard_error(std::exp(-difference.mean()) * difference.error() *
                                             100);
  return out;
}

// Counts and the figures of the first run.
void combine_run(Totals totals, v1::ScoreSummary& out) {
  Sums nll;
  for (const auto& total : totals.subspan(1)) {
    out.set_windows(out.windows() + total.windows());
    out.set_tokens(out.tokens() + total.tokens());
    out.set_tokens_scored(out.tokens_scored() + total.tokens_scored());
    out.set_words_scored(out.words_scored() + total.words_scored());
    out.set_bytes_scored(out.bytes_scored() + total.bytes_scored());
    out.set_nll_sum(out.nll_sum() + total.nll_sum());
    out.set_begins_with_bos(out.begins_with_bos() && total.begins_with_bos());
    if (total.protocol() == v1::SCORE_PROTOCOL_ROLLING) out.set_protocol(total.protocol());
  }
  for (const auto& total : totals) {
    nll.add(total.mean_nll(), total.mean_nll_standard_error(), tokens_of(total));
  }
  out.set_mean_nll(out.nll_sum() / tokens_of(out));
  out.set_mean_nll_standard_error(nll.error());
  out.set_perplexity(std::exp(out.mean_nll()));
  out.set_perplexity_standard_error(out.perplexity() * nll.error());
  out.set_top1_ratio(
      mean_over_tokens(totals, [](const v1::ScoreSummary& total) { return total.top1_ratio(); }));
  if (out.bytes_scored() == 0) return;
  const double per_byte = out.nll_sum() / static_cast<double>(out.bytes_scored());
  out.set_bits_per_byte(per_byte / std::log(2.0));
  out.set_byte_perplexity(std::exp(per_byte));
  if (out.words_scored() == 0) return;
  out.set_word_perplexity(std::exp(out.nll_sum() / static_cast<double>(out.words_scored())));
}

// The sums behind doubts are not sent, so the doubts of a request stand for all where the doubtful
// ones hold at least half of the tokens.
void combine_doubts(Totals totals, v1::ScoreSummary& out) {
  out.clear_doubts();
  double doubtful = 0;
  for (const auto& total : totals) doubtful += total.doubts().empty() ? 0 : tokens_of(total);
  if (doubtful < tokens_of(out) / 2) return;
  const auto first = std::ranges::find_if(
      totals, [](const v1::ScoreSummary& total) { return !total.doubts().empty(); });
  if (first != totals.end()) *out.mutable_doubts() = first->doubts();
}

void combine_verdict(Totals totals, int32_t vocab_size, v1::ScoreSummary& out) {
  out.set_suspect(!(out.mean_nll() <= std::log(static_cast<double>(vocab_size)) - 1));
  combine_doubts(totals, out);
  out.clear_suspect_causes();
  if (!out.suspect() && out.doubts().empty()) return;
  for (const auto& total : totals) {
    if (total.suspect_causes().empty()) continue;
    *out.mutable_suspect_causes() = total.suspect_causes();
    return;
  }
}

}  // namespace

void ScoreTotals::add(const v1::ScoreSummary& total,
                      const std::vector<std::vector<v1::ScoreTokens>>& tokens) {
  totals_.push_back(total);
  if (!total.has_comparison()) return;
  for (const auto& parts : tokens) {
    for (const auto& part : parts) {
      for (int i = 0; i < part.sparse_logprobs_size(); ++i) {
        differences_.push_back(part.sparse_logprobs(i) - part.logprobs(i));
      }
    }
  }
}

v1::ScoreSummary ScoreTotals::total() {
  using Summary = v1::ScoreSummary;
  Summary out = totals_.front();
  combine_run(totals_, out);
  combine_verdict(totals_, vocab_size_, out);
  if (out.has_attention()) {
    *out.mutable_attention() = combined(totals_, std::mem_fn(&Summary::attention));
  }
  if (out.has_first_attention()) {
    *out.mutable_first_attention() = combined(totals_, std::mem_fn(&Summary::first_attention));
  }
  if (out.has_tile_attention()) {
    *out.mutable_tile_attention() = combined(totals_, std::mem_fn(&Summary::tile_attention));
  }
  if (out.has_tile_first_attention()) {
    *out.mutable_tile_first_attention() =
        combined(totals_, std::mem_fn(&Summary::tile_first_attention));
  }
  if (out.has_tile_comparison()) {
    *out.mutable_tile_comparison() =
        combined(totals_, out.suspect(), std::mem_fn(&Summary::tile_comparison));
  }
  if (!out.has_comparison()) return out;
  const auto percents = out.comparison().logprob_difference_percentiles();
  *out.mutable_comparison() = combined(totals_, out.suspect(), std::mem_fn(&Summary::comparison));
  for (const auto& entry : percents) {
    auto& added = *out.mutable_comparison()->add_logprob_difference_percentiles();
    added.set_percent(entry.percent());
    added.set_difference(percentile(differences_, entry.percent()));
  }
  return out;
}

}  // namespace kascade::client
