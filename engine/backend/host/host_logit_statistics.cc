#include "engine/backend/host/host_logit_statistics.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "engine/base/softmax.h"

namespace kascade {
namespace {

std::span<const float> row_of(Tensor logits, size_t row) {
  return {logits.f32(static_cast<int64_t>(row)), static_cast<size_t>(logits.cols)};
}

// Inserts the token if it is among the `keep` best so far. `top` is sorted by logit; of equal
// logits the token that came first wins.
void offer(std::vector<TokenLogit>& top, int32_t keep, Token token, float logit) {
  if (static_cast<int32_t>(top.size()) == keep && logit <= top.back().logit) return;
  const auto place =
      std::ranges::find_if(top, [logit](const TokenLogit& other) { return other.logit < logit; });
  top.insert(place, {token, logit});
  if (static_cast<int32_t>(top.size()) > keep) top.pop_back();
}

}  // namespace

void HostLogitStatistics::start(std::span<const Token> targets, int32_t candidates) {
  candidates_ = candidates;
  rows_.assign(targets.size(), Row{});
  for (size_t i = 0; i < targets.size(); ++i) rows_[i].target_token = targets[i];
}

void HostLogitStatistics::add(Tensor logits, Token first_token) {
  for (size_t i = 0; i < rows_.size(); ++i) add_row(row_of(logits, i), first_token, rows_[i]);
}

void HostLogitStatistics::add_row(std::span<const float> logits, Token first_token,
                                  Row& row) const {
  RowStatistics& result = row.result;
  result.finite = result.finite && first_not_finite(logits) < 0;
  if (!result.finite) return;
  const int64_t best = largest_of(logits);
  if (logits[best] > row.max) result.best = first_token + static_cast<Token>(best);
  for (size_t i = 0; candidates_ > 0 && i < logits.size(); ++i) {
    offer(result.top, candidates_, first_token + static_cast<Token>(i), logits[i]);
  }
  const float max = std::max(row.max, logits[best]);
  row.sum = row.sum * std::exp(static_cast<double>(row.max) - max) + exponential_sum(logits, max);
  row.max = max;
  const int64_t index = static_cast<int64_t>(row.target_token) - first_token;
  if (index >= 0 && index < static_cast<int64_t>(logits.size())) result.target = logits[index];
}

void HostLogitStatistics::add_difference(Tensor logits, Tensor other) {
  for (size_t i = 0; i < rows_.size(); ++i) {
    const std::span<const float> first = row_of(logits, i), second = row_of(other, i);
    Row& row = rows_[i];
    float max = row.difference_max;
    for (const float logit : first) max = std::max(max, logit);
    double sum = row.differences * std::exp(static_cast<double>(row.difference_max) - max);
    for (size_t j = 0; j < first.size(); ++j) {
      sum += std::exp(first[j] - max) * static_cast<double>(first[j] - second[j]);
    }
    row.difference_max = max;
    row.differences = sum;
  }
}

void HostLogitStatistics::add_ranks(Tensor logits, Token first_token) {
  for (size_t i = 0; i < rows_.size(); ++i) {
    const std::span<const float> values = row_of(logits, i);
    Row& row = rows_[i];
    const float target = row.result.target;
    for (size_t j = 0; j < values.size(); ++j) {
      const Token token = first_token + static_cast<Token>(j);
      if (token == row.target_token) continue;
      const bool ties_before = values[j] == target && token < row.target_token;
      row.result.above += values[j] > target || ties_before;
    }
  }
}

std::vector<RowStatistics> HostLogitStatistics::read() {
  std::vector<RowStatistics> results;
  results.reserve(rows_.size());
  for (Row& row : rows_) {
    row.result.finite = row.result.finite && std::isfinite(row.sum);
    row.result.log_sum = row.max + std::log(row.sum);
    row.result.expected_difference = row.differences / row.sum;
    results.push_back(std::move(row.result));
  }
  return results;
}

}  // namespace kascade
