#include "engine/calibration/quality_check.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "engine/quality/comparison.h"
#include "engine/quality/doubt.h"

namespace kascade {
namespace {

void record_comparison(const ComparisonSums& sums, QualityRecord& quality) {
  quality.tokens = sums.tokens;
  quality.dense_perplexity = perplexity(mean_nll(sums.first_nll, sums.tokens));
  quality.sparse_perplexity = perplexity(mean_nll(sums.second_nll, sums.tokens));
  const PairedDifference rise = nll_rise(sums);
  quality.degradation_percent = degradation_percent(rise);
  quality.degradation_error_percent = degradation_error_percent(rise);
  quality.mean_kl = mean_kl(sums);
  quality.same_top1 = same_top1_ratio(sums);
}

void record_counts(const AttentionCounts& counts, QualityRecord& quality) {
  const auto causal = static_cast<double>(counts.causal);
  const auto positions = static_cast<double>(counts.positions);
  quality.keys_attended_ratio = static_cast<double>(counts.attended) / causal;
  quality.keys_scored_ratio = static_cast<double>(counts.scored) / causal;
  quality.kv_bytes_read_per_token = static_cast<double>(counts.kv_bytes_read) / positions;
  quality.dense_kv_bytes_read_per_token =
      static_cast<double>(counts.dense_kv_bytes_read) / positions;
}

void record_verdict(const WindowComparison& compared, const QualityCheckOptions& options,
                    QualityRecord& quality) {
  const ComparisonSums& sums = compared.sums;
  quality.suspect = is_suspect(mean_nll(sums.first_nll, sums.tokens), options.vocab);
  const std::vector<std::string> reasons =
      doubts(mean_nll(sums.first_nll, sums.tokens), sums.tokens, compared.doubt);
  if (!reasons.empty()) quality.doubt = absl::StrJoin(reasons, "; ");
  quality.max_degradation_percent = options.max_degradation_percent;
  quality.passed = passes_quality_check(
      {.drops_keys = compared.counts.attended < compared.counts.causal,
       .suspect = quality.suspect,
       .sparse_perplexity = quality.sparse_perplexity,
       .degradation_percent = quality.degradation_percent,
       .degradation_error_percent = quality.degradation_error_percent.value_or(0)},
      options.max_degradation_percent);
}

}  // namespace

absl::StatusOr<QualityCheckResult> check_quality(WindowRuns& runs,
                                                 const std::shared_ptr<const Schedule>& schedule,
                                                 const QualityCheckOptions& options,
                                                 const TokensDone& done) {
  const auto compared = runs.compare(schedule, options.windows, done);
  if (!compared.ok()) return compared.status();
  QualityCheckResult result{.anchors = schedule->count(Role::kAnchor) + 1,
                            .dense_layers = schedule->count(Role::kDense) - 1,
                            .predicted_similarity = predicted_similarity(schedule->layers)};
  result.quality.protocol =
      absl::StrCat("held-out windows of at most ", options.window_rows,
                   " tokens, the tokenizer's prefix in front, all positions scored");
  record_comparison(compared->sums, result.quality);
  record_counts(compared->counts, result.quality);
  record_verdict(*compared, options, result.quality);
  return result;
}

bool is_better(const QualityRecord& a, const QualityRecord& b) {
  const bool sparse = a.keys_attended_ratio < 1;
  if (a.passed != b.passed) return a.passed;
  if (sparse != (b.keys_attended_ratio < 1)) return sparse;
  return a.degradation_percent < b.degradation_percent;
}

}  // namespace kascade
