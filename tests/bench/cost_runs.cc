// The grid of steps that the cost model is fitted to and judged by.
#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/bench/runs.h"

namespace kascade::bench {
namespace {

constexpr char kCommand[] = "cost model";

// Rows of each sequence.
struct GridRow {
  int32_t sequences;
  int32_t rows;
  bool per_query;
};

std::vector<GridRow> grid_of(const Settings& settings) {
  std::vector<GridRow> grid = {{1, 32, false}, {1, 128, false}, {1, 512, false}};
  for (const int32_t sequences : settings.sequences) grid.push_back({sequences, 1, true});
  return grid;
}

bool is_of(const Measurement& m, const GridRow& row) {
  const bool steps = m.command == kCommand || m.command == "prefill" || m.command == "decode";
  return steps && m.sequences == row.sequences && m.rows == row.sequences * row.rows &&
         m.per_query == row.per_query;
}

// The last row of each sequence gets logits.
StepFeatures features_of(const Measurement& m, int32_t q_dim) {
  const double attended = m.work.attention_flops / (4.0 * q_dim);
  const double scored = m.work.scoring_flops / (2.0 * q_dim);
  StepFeatures features{.rows = 1.0 * m.rows, .logit_rows = 1.0 * m.sequences};
  (m.per_query ? features.row_keys_attended : features.tile_keys_attended) = attended;
  (m.per_query ? features.row_keys_scored : features.tile_keys_scored) = scored;
  return features;
}

}  // namespace

absl::Status Runs::cost_model() {
  std::vector<MeasuredStep> measured;
  const std::vector<GridRow> grid = grid_of(settings_);
  for (size_t index = 0; index < grid.size(); ++index) {
    const GridRow& row = grid[index];
    const auto same = [&](const Measurement& m) { return is_of(m, row); };
    if (std::ranges::none_of(measurements_, same)) {
      auto status = steps(kCommand, row.sequences, row.rows, row.per_query);
      if (!status.ok()) return status;
    }
    // Every other step is for fitting, like the fields of one colour on a chessboard.
    size_t colour = index;
    for (const Measurement& m : measurements_) {
      if (!same(m)) continue;
      MeasuredStep step{
          .name = absl::StrCat(m.mode, ", ", m.rows, " rows ", m.what, ", depth ", m.depth),
          .features = features_of(m, config_.q_dim()),
          .seconds = m.seconds().median,
          .fitted = colour % 2 == 0};
      if (!step.fitted) measured.push_back(step);
      for (const Sample& sample : m.samples.kept) {
        step.seconds = sample.seconds;
        if (step.fitted) measured.push_back(step);
      }
      colour += m.depth == settings_.depths.back() && settings_.depths.size() % 2 == 0 ? 2 : 1;
    }
  }
  costs_ = fit_costs(measured);
  if (!costs_) return absl::FailedPreconditionError("cost-model: too few steps; give more depths");
  return absl::OkStatus();
}

}  // namespace kascade::bench
