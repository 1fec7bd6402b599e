#include "engine/sampling/scorer.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/refusal.h"

namespace kascade {
namespace {

ScoredToken scored_token(RowStatistics& row, Token target, bool want_rank) {
  ScoredToken scored{.token = target,
                     .logprob = static_cast<float>(row.target - row.log_sum),
                     .rank = want_rank ? row.above + 1 : 0,
                     .is_top1 = row.best == target};
  for (const TokenLogit& top : row.top) {
    scored.top.push_back({top.token, static_cast<float>(top.logit - row.log_sum)});
  }
  return scored;
}

absl::Status check_finite(const std::vector<RowStatistics>& rows, int64_t first_target) {
  for (size_t i = 0; i < rows.size(); ++i) {
    if (rows[i].finite) continue;
    return refuse(absl::StatusCode::kInternal,
                  absl::StrCat("logits are not finite at scored token ",
                               first_target + static_cast<int64_t>(i)),
                  {.reason = reason::kNonFinite});
  }
  return absl::OkStatus();
}

}  // namespace

Scorer::Scorer(Transformer& transformer) : transformer_(transformer) {
  Backend& backend = transformer.backend();
  const int64_t width = transformer.widest_head_tile();
  logits_ = backend.allocate(DType::kF32, kScorerRows, width);
  second_logits_ = backend.allocate(DType::kF32, kScorerRows, width);
  statistics_ = backend.make_logit_statistics();
  second_statistics_ = backend.make_logit_statistics();
}

void Scorer::add_logits(std::span<const Run> runs) {
  for (const HeadTile& tile : transformer_.head()) {
    const auto logits_of = [&](const Run& run) {
      return run.logits.first_rows(run.hidden.rows).slice_cols(0, tile.matrix->out_features());
    };
    for (const Run& run : runs) {
      transformer_.tile_logits(run.hidden, tile, logits_of(run));
      run.statistics.add(logits_of(run), tile.first_token);
    }
    if (runs.size() == 2) {
      runs[0].statistics.add_difference(logits_of(runs[0]), logits_of(runs[1]));
    }
  }
}

// A rank needs the target's logit first, hence a second pass over the head.
void Scorer::add_ranks(const Run& run) {
  for (const HeadTile& tile : transformer_.head()) {
    const Tensor logits =
        run.logits.first_rows(run.hidden.rows).slice_cols(0, tile.matrix->out_features());
    transformer_.tile_logits(run.hidden, tile, logits);
    run.statistics.add_ranks(logits, tile.first_token);
  }
}

absl::StatusOr<std::vector<ScoredToken>> Scorer::score(Tensor hidden,
                                                       std::span<const Token> targets,
                                                       int32_t first_target,
                                                       const ScoreOptions& options) {
  std::vector<ScoredToken> scored;
  for (int64_t begin = 0; begin < hidden.rows; begin += kScorerRows) {
    const int64_t count = std::min<int64_t>(kScorerRows, hidden.rows - begin);
    const auto part = targets.subspan(begin, count);
    const Run run{hidden.slice_rows(begin, count), logits_, *statistics_};
    run.statistics.start(part, options.top_logprobs);
    add_logits({&run, 1});
    if (options.want_ranks) add_ranks(run);
    std::vector<RowStatistics> rows = run.statistics.read();
    if (absl::Status status = check_finite(rows, first_target + begin); !status.ok()) return status;
    for (int64_t i = 0; i < count; ++i) {
      scored.push_back(scored_token(rows[i], part[i], options.want_ranks));
    }
  }
  return scored;
}

absl::StatusOr<Scorer::Compared> Scorer::compare(Tensor first_hidden, Tensor second_hidden,
                                                 std::span<const Token> targets,
                                                 int32_t first_target,
                                                 const ScoreOptions& options) {
  Compared result;
  for (int64_t begin = 0; begin < first_hidden.rows; begin += kScorerRows) {
    const int64_t count = std::min<int64_t>(kScorerRows, first_hidden.rows - begin);
    const auto part = targets.subspan(begin, count);
    const Run runs[] = {
        {first_hidden.slice_rows(begin, count), logits_, *statistics_},
        {second_hidden.slice_rows(begin, count), second_logits_, *second_statistics_}};
    statistics_->start(part, options.top_logprobs);
    second_statistics_->start(part, /*candidates=*/0);
    add_logits(runs);
    for (const Run& run : runs) {
      if (options.want_ranks) add_ranks(run);
    }
    std::vector<RowStatistics> first = statistics_->read(), second = second_statistics_->read();
    for (const auto* rows : {&first, &second}) {
      absl::Status status = check_finite(*rows, first_target + begin);
      if (!status.ok()) return status;
    }
    for (int64_t i = 0; i < count; ++i) {
      const double kl = first[i].expected_difference - first[i].log_sum + second[i].log_sum;
      const bool same_top1 = first[i].best == second[i].best;
      result.first.push_back(scored_token(first[i], part[i], options.want_ranks));
      result.comparisons.push_back({.second = scored_token(second[i], part[i], options.want_ranks),
                                    .kl = static_cast<float>(std::max(0.0, kl)),
                                    .same_top1 = same_top1});
    }
  }
  return result;
}

}  // namespace kascade
