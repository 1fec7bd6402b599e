#include "engine/calibration/quality_check.h"

#include <algorithm>
#include <limits>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "engine/quality/comparison.h"
#include "engine/quality/doubt.h"
#include "engine/quality/percentile.h"
#include "engine/quality/retrieval.h"

namespace kascade {
namespace {

// What comparing a token takes, in tokens of a question: it runs dense and sparse, and in the
// sparse run each row selects for itself.
constexpr int64_t kRunsOfComparison = 3;

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

KindQuality kind_quality(const KindWindows& kind, WindowComparison& compared,
                         double max_degradation_percent) {
  const ComparisonSums& sums = compared.sums;
  const PairedDifference rise = nll_rise(sums);
  KindQuality row{.kind = kind.kind,
                  .windows = static_cast<int32_t>(kind.windows.size()),
                  .tokens = sums.tokens,
                  .dense_perplexity = perplexity(mean_nll(sums.first_nll, sums.tokens)),
                  .sparse_perplexity = perplexity(mean_nll(sums.second_nll, sums.tokens)),
                  .degradation_percent = degradation_percent(rise),
                  .degradation_error_percent = degradation_error_percent(rise),
                  .mean_kl = mean_kl(sums),
                  .kl_99th_percentile = percentile(compared.kl, 99),
                  .same_top1 = same_top1_ratio(sums)};
  row.passed = loses_little(row.sparse_perplexity, row.degradation_percent,
                            row.degradation_error_percent, max_degradation_percent);
  return row;
}

RetrievalQuality retrieval_quality(int32_t prompt_tokens, const RetrievalCounts& counts) {
  RetrievalQuality row{.prompt_tokens = prompt_tokens,
                       .asked = static_cast<int32_t>(counts.asked),
                       .dense_found = static_cast<int32_t>(counts.dense),
                       .measurable = is_measurable(counts)};
  if (!row.measurable) return row;
  row.sparse_found = static_cast<int32_t>(counts.sparse());
  row.lost = static_cast<int32_t>(counts.lost);
  row.p_value = sign_test_p_value(counts.lost, counts.gained);
  row.passed = retrieves_enough(counts);
  return row;
}

RetrievalCounts counts_of(const std::vector<bool>& dense) {
  return {.asked = std::ssize(dense), .dense = std::ranges::count(dense, true)};
}

RetrievalCounts counts_of(const std::vector<bool>& dense, const std::vector<bool>& sparse) {
  RetrievalCounts counts = counts_of(dense);
  for (size_t i = 0; i < dense.size(); ++i) {
    if (dense[i] && !sparse[i]) ++counts.lost;
    if (sparse[i] && !dense[i]) ++counts.gained;
  }
  return counts;
}

}  // namespace

int64_t QualityCheck::tokens() const {
  return kRunsOfComparison * count_tokens(panel_.kinds) +
         count_tokens(panel_.questions) * (dense_answers_ ? 1 : 2);
}

absl::Status QualityCheck::compare(const std::shared_ptr<const Schedule>& schedule,
                                   const TokensDone& done, QualityRecord& quality) {
  WindowComparison all;
  bool kinds_passed = true;
  for (const KindWindows& kind : panel_.kinds) {
    auto compared = runs_.compare(schedule, kind.windows, [&](int64_t tokens) {
      done(kRunsOfComparison * (all.sums.tokens + tokens));
    });
    if (!compared.ok()) return compared.status();
    quality.kinds.push_back(kind_quality(kind, *compared, panel_.max_degradation_percent));
    kinds_passed &= quality.kinds.back().passed;
    all.sums += compared->sums;
    all.counts += compared->counts;
    all.doubt += compared->doubt;
  }
  quality.protocol = absl::StrCat("held-out windows of at most ", panel_.window_rows,
                                  " tokens, the tokenizer's prefix in front, all positions scored");
  quality.checked_tokens = longest_rows(panel_.kinds);
  record_comparison(all.sums, quality);
  record_counts(all.counts, quality);
  const double nll = mean_nll(all.sums.first_nll, all.sums.tokens);
  quality.suspect = is_suspect(nll, panel_.vocab);
  const std::vector<std::string> reasons = doubts(nll, all.sums.tokens, all.doubt);
  if (!reasons.empty()) quality.doubt = absl::StrJoin(reasons, "; ");
  quality.max_degradation_percent = panel_.max_degradation_percent;
  const QualityFigures figures{
      .drops_keys = all.counts.attended < all.counts.causal,
      .suspect = quality.suspect,
      .sparse_perplexity = quality.sparse_perplexity,
      .degradation_percent = quality.degradation_percent,
      .degradation_error_percent = quality.degradation_error_percent.value_or(0)};
  quality.passed = kinds_passed && passes_quality_check(figures, panel_.max_degradation_percent);
  return absl::OkStatus();
}

absl::Status QualityCheck::ask(const std::shared_ptr<const Schedule>& schedule,
                               const TokensDone& done, QualityRecord& quality) {
  int64_t finished = kRunsOfComparison * count_tokens(panel_.kinds);
  const auto report = [&](int64_t tokens) { done(finished + tokens); };
  if (!dense_answers_) {
    std::vector<std::vector<bool>> answers;
    for (const QuestionsOfLength& length : panel_.questions) {
      auto dense = runs_.ask(DenseAttention{}, length.questions, report);
      if (!dense.ok()) return dense.status();
      finished += length.tokens * std::ssize(length.questions);
      answers.push_back(*std::move(dense));
    }
    dense_answers_ = std::move(answers);
  }
  RetrievalCounts all;
  for (size_t i = 0; i < panel_.questions.size(); ++i) {
    const QuestionsOfLength& length = panel_.questions[i];
    const std::vector<bool>& dense = (*dense_answers_)[i];
    RetrievalCounts counts = counts_of(dense);
    if (is_measurable(counts)) {
      const auto sparse =
          runs_.ask(ScheduledAttention{.schedule = schedule}, length.questions, report);
      if (!sparse.ok()) return sparse.status();
      counts = counts_of(dense, *sparse);
      all += counts;
    }
    finished += length.tokens * std::ssize(length.questions);
    quality.retrieval.push_back(retrieval_quality(length.tokens, counts));
    quality.passed &= quality.retrieval.back().passed;
  }
  if (std::ranges::count(quality.retrieval, true, &RetrievalQuality::measurable) < 2) {
    return absl::OkStatus();
  }
  quality.retrieval.push_back(retrieval_quality(0, all));
  quality.passed &= quality.retrieval.back().passed;
  return absl::OkStatus();
}

absl::StatusOr<QualityCheckResult> QualityCheck::check(
    const std::shared_ptr<const Schedule>& schedule, const TokensDone& done) {
  QualityCheckResult result{.anchors = schedule->count(Role::kAnchor) + 1,
                            .dense_layers = schedule->count(Role::kDense) - 1,
                            .predicted_similarity = predicted_similarity(schedule->layers),
                            .mass = schedule->selection.mass};
  absl::Status status = compare(schedule, done, result.quality);
  if (status.ok() && result.quality.passed) status = ask(schedule, done, result.quality);
  if (!status.ok()) return status;
  return result;
}

bool is_better(const QualityRecord& a, const QualityRecord& b) {
  const bool sparse = a.keys_attended_ratio < 1;
  if (a.passed != b.passed) return a.passed;
  if (a.passed) {
    const auto read = [](const QualityRecord& record) {
      return record.kv_bytes_read_per_token.value_or(std::numeric_limits<double>::infinity());
    };
    return read(a) < read(b);
  }
  if (sparse != (b.keys_attended_ratio < 1)) return sparse;
  return a.degradation_percent < b.degradation_percent;
}

}  // namespace kascade
