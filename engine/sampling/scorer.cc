#include "engine/sampling/scorer.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "absl/strings/str_cat.h"
#include "engine/base/refusal.h"
#include "engine/sampling/softmax.h"

namespace kascade {
namespace {

// One row's softmax statistics, folded over vocabulary tiles.
struct RowFold {
  double sum = 0;  // Σ exp(logit − max)
  float max = -std::numeric_limits<float>::infinity();
  float target = 0;   // logit of the target token
  Token best = 0;     // arg-max, ties → lowest id
  int32_t above = 0;  // tokens ranked before the target
  bool finite = true;
  std::vector<Candidate> top{};  // logits, best first, until finish()

  double log_sum() const { return max + std::log(sum); }
};

// Σ p_dense · (dense logit − sparse logit), scaled by the dense row's running maximum.
struct CrossFold {
  double weighted = 0;
  float max = -std::numeric_limits<float>::infinity();
};

void offer(std::vector<Candidate>& top, int32_t keep, Token token, float logit) {
  if (static_cast<int32_t>(top.size()) == keep && logit <= top.back().logprob) return;
  const auto place =
      std::ranges::find_if(top, [logit](const Candidate& other) { return other.logprob < logit; });
  top.insert(place, {token, logit});
  if (static_cast<int32_t>(top.size()) > keep) top.pop_back();
}

void fold(std::span<const float> logits, Token first, Token target, int32_t keep, RowFold& row) {
  row.finite = row.finite && first_not_finite(logits) < 0;
  if (!row.finite) return;
  const int64_t best = largest_of(logits);
  if (logits[best] > row.max) row.best = first + static_cast<Token>(best);
  for (size_t i = 0; keep > 0 && i < logits.size(); ++i) {
    offer(row.top, keep, first + static_cast<Token>(i), logits[i]);
  }
  const float max = std::max(row.max, logits[best]);
  row.sum = row.sum * std::exp(static_cast<double>(row.max) - max) + exponential_sum(logits, max);
  row.max = max;
  const int64_t index = static_cast<int64_t>(target) - first;
  if (index >= 0 && index < static_cast<int64_t>(logits.size())) row.target = logits[index];
}

void fold_cross(std::span<const float> dense, std::span<const float> sparse, CrossFold& row) {
  float max = row.max;
  for (const float logit : dense) max = std::max(max, logit);
  double weighted = row.weighted * std::exp(static_cast<double>(row.max) - max);
  for (size_t i = 0; i < dense.size(); ++i) {
    weighted += std::exp(dense[i] - max) * static_cast<double>(dense[i] - sparse[i]);
  }
  row.max = max;
  row.weighted = weighted;
}

void count_above(std::span<const float> logits, Token first, Token target, RowFold& row) {
  for (size_t i = 0; i < logits.size(); ++i) {
    const Token token = first + static_cast<Token>(i);
    if (token == target) continue;
    row.above += logits[i] > row.target || (logits[i] == row.target && token < target);
  }
}

ScoredToken finish(RowFold& row, Token target, bool want_rank) {
  const double log_sum = row.log_sum();
  for (Candidate& candidate : row.top) {
    candidate.logprob = static_cast<float>(candidate.logprob - log_sum);
  }
  return {.token = target,
          .logprob = static_cast<float>(row.target - log_sum),
          .rank = want_rank ? row.above + 1 : 0,
          .is_top1 = row.best == target,
          .top = std::move(row.top)};
}

std::span<const float> row_of(Tensor logits, int64_t row) {
  return {logits.f32(row), static_cast<size_t>(logits.cols)};
}

absl::Status check_finite(const std::vector<RowFold>& rows, int64_t first_target) {
  for (size_t i = 0; i < rows.size(); ++i) {
    if (rows[i].finite && std::isfinite(rows[i].sum)) continue;
    return refuse(absl::StatusCode::kInternal,
                  absl::StrCat("logits are not finite at scored token ",
                               first_target + static_cast<int64_t>(i)),
                  {.reason = reason::kNonFinite});
  }
  return absl::OkStatus();
}

// The folds of up to kScorerRows rows over all head tiles.
class RowTile {
 public:
  RowTile(Transformer& transformer, std::span<const Token> targets, const ScoreOptions& options)
      : transformer_(transformer), targets_(targets), options_(options) {}

  // Adds one head tile's logits to the rows' folds, which keep the `candidates` most likely tokens.
  void add(Tensor logits, const HeadTile& tile, int32_t candidates,
           std::vector<RowFold>& rows) const {
    for (size_t i = 0; i < rows.size(); ++i) {
      fold(row_of(logits, static_cast<int64_t>(i)), tile.first_token, targets_[i], candidates,
           rows[i]);
    }
  }

  // Ranks need the target's logit first, hence a second pass over the head.
  void add_ranks(Tensor hidden, Tensor scratch, std::vector<RowFold>& rows) const {
    if (!options_.want_ranks) return;
    for (const HeadTile& tile : transformer_.head()) {
      const Tensor logits = scratch.slice_cols(0, tile.matrix->out_features());
      transformer_.tile_logits(hidden, tile, logits);
      for (size_t i = 0; i < rows.size(); ++i) {
        count_above(row_of(logits, static_cast<int64_t>(i)), tile.first_token, targets_[i],
                    rows[i]);
      }
    }
  }

 private:
  Transformer& transformer_;
  std::span<const Token> targets_;
  const ScoreOptions& options_;
};

}  // namespace

Scorer::Scorer(Transformer& transformer)
    : transformer_(transformer),
      logits_(DType::kF32, kScorerRows, transformer.widest_head_tile()),
      other_logits_(DType::kF32, kScorerRows, transformer.widest_head_tile()) {}

absl::StatusOr<std::vector<ScoredToken>> Scorer::score(Tensor hidden,
                                                       std::span<const Token> targets,
                                                       int32_t first_target,
                                                       const ScoreOptions& options) {
  std::vector<ScoredToken> scored;
  for (int64_t begin = 0; begin < hidden.rows; begin += kScorerRows) {
    const int64_t count = std::min<int64_t>(kScorerRows, hidden.rows - begin);
    const auto part = targets.subspan(begin, count);
    const Tensor rows_hidden = hidden.slice_rows(begin, count);
    const RowTile row_tile(transformer_, part, options);
    std::vector<RowFold> rows(count);
    for (const HeadTile& tile : transformer_.head()) {
      const Tensor logits = logits_.first_rows(count).slice_cols(0, tile.matrix->out_features());
      transformer_.tile_logits(rows_hidden, tile, logits);
      row_tile.add(logits, tile, options.top_logprobs, rows);
    }
    if (absl::Status status = check_finite(rows, first_target + begin); !status.ok()) return status;
    row_tile.add_ranks(rows_hidden, logits_.first_rows(count), rows);
    for (int64_t i = 0; i < count; ++i) {
      scored.push_back(finish(rows[i], part[i], options.want_ranks));
    }
  }
  return scored;
}

absl::StatusOr<Scorer::Compared> Scorer::compare(Tensor dense_hidden, Tensor sparse_hidden,
                                                 std::span<const Token> targets,
                                                 int32_t first_target,
                                                 const ScoreOptions& options) {
  Compared result;
  for (int64_t begin = 0; begin < dense_hidden.rows; begin += kScorerRows) {
    const int64_t count = std::min<int64_t>(kScorerRows, dense_hidden.rows - begin);
    const auto part = targets.subspan(begin, count);
    const Tensor hidden_a = dense_hidden.slice_rows(begin, count);
    const Tensor hidden_b = sparse_hidden.slice_rows(begin, count);
    const RowTile row_tile(transformer_, part, options);
    std::vector<RowFold> dense(count), sparse(count);
    std::vector<CrossFold> cross(count);
    for (const HeadTile& tile : transformer_.head()) {
      const int64_t width = tile.matrix->out_features();
      const Tensor a = logits_.first_rows(count).slice_cols(0, width);
      const Tensor b = other_logits_.first_rows(count).slice_cols(0, width);
      transformer_.tile_logits(hidden_a, tile, a);
      transformer_.tile_logits(hidden_b, tile, b);
      row_tile.add(a, tile, options.top_logprobs, dense);
      row_tile.add(b, tile, /*candidates=*/0, sparse);
      for (int64_t i = 0; i < count; ++i) fold_cross(row_of(a, i), row_of(b, i), cross[i]);
    }
    for (const auto* rows : {&dense, &sparse}) {
      if (absl::Status status = check_finite(*rows, first_target + begin); !status.ok())
        return status;
    }
    row_tile.add_ranks(hidden_a, logits_.first_rows(count), dense);
    row_tile.add_ranks(hidden_b, logits_.first_rows(count), sparse);
    for (int64_t i = 0; i < count; ++i) {
      const double kl = cross[i].weighted / dense[i].sum - dense[i].log_sum() + sparse[i].log_sum();
      const bool same_top1 = dense[i].best == sparse[i].best;
      result.dense.push_back(finish(dense[i], part[i], options.want_ranks));
      result.comparisons.push_back({.sparse = finish(sparse[i], part[i], options.want_ranks),
                                    .kl = static_cast<float>(std::max(0.0, kl)),
                                    .same_top1 = same_top1});
    }
  }
  return result;
}

}  // namespace kascade
