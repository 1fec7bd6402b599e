#include "client/eval/quality_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>
#include <utility>

#include "client/eval/figures.h"
#include "client/eval/findings.h"
#include "client/eval/schedule_figures.h"
#include "client/eval/variants.h"
#include "client/views/reports.h"
#include "tools/terminal/print.h"

namespace kascade::client {
namespace {

std::string number(std::optional<double> value, const char* format) {
  return value ? fmt::format(fmt::runtime(format), *value) : "";
}

const WindowFigures* at_window(const QualityRow& row, int32_t window) {
  for (const WindowFigures& figures : row.windows) {
    if (figures.window == window) return &figures;
  }
  return nullptr;
}

// The columns of one window; empty where the row was not measured at it.
void add_window_cells(const WindowFigures* figures, std::vector<std::string>& cells) {
  const auto cell = [&](auto member, const char* format) {
    return figures == nullptr ? "" : fmt::format(fmt::runtime(format), figures->*member);
  };
  const auto change = [&](auto member) {
    return figures == nullptr ? "" : signed_fixed(figures->*member, 2);
  };
  cells.push_back(change(&WindowFigures::change_percent));
  cells.push_back(cell(&WindowFigures::change_error, "{:.2f}"));
  cells.push_back(cell(&WindowFigures::mean_kl, "{:.4f}"));
  cells.push_back(cell(&WindowFigures::mean_kl_error, "{:.4f}"));
  cells.push_back(change(&WindowFigures::tile_change_percent));
  cells.push_back(cell(&WindowFigures::tile_mean_kl, "{:.4f}"));
}

std::vector<std::string> cells_of(const QualityResults& results, const QualityRow& row) {
  std::vector<std::string> cells = {
      row.group,
      row.label,
      row.comparison_row,
      number(row.ratio, "{:.4g}"),
      row.anchors ? std::to_string(*row.anchors) : "",
      row.dense_layers ? std::to_string(*row.dense_layers) : "",
      number(row.predicted_similarity, "{:.4f}"),
      row.quality_check_change ? signed_fixed(*row.quality_check_change, 2) : "",
      number(row.quality_check_error, "{:.2f}"),
      fmt::format("{:.4f}", row.reuse_layers_ratio),
      fmt::format("{:.4f}", row.keys_attended_ratio),
      fmt::format("{:.4f}", row.keys_scored_ratio),
      fmt::format("{:.0f}", row.kv_bytes_per_token),
      fmt::format("{:.4f}", row.bytes_ratio()),
  };
  for (const int32_t window : {512, 2048, 4096}) add_window_cells(at_window(row, window), cells);
  cells.push_back(row.cases > 0 ? std::to_string(row.found) : "");
  cells.push_back(row.cases > 0 ? std::to_string(row.cases) : "");
  const WindowFigures& longest = row.longest();
  cells.push_back(std::to_string(longest.window));
  cells.push_back(std::to_string(longest.tokens));
  cells.push_back(fmt::format("{:.3f}", longest.dense_perplexity));
  const QualityRow* comparison_row = comparison_row_of(results, row);
  const PairedDifference difference = comparison_row == nullptr
                                          ? PairedDifference{}
                                          : paired_difference(longest, comparison_row->longest());
  cells.push_back(comparison_row == nullptr ? "" : signed_fixed(difference.mean, 4));
  cells.push_back(comparison_row == nullptr ? "" : fmt::format("{:.4f}", difference.error));
  return cells;
}

Series points_of(const QualityResults& results, const std::string& name, const auto& belongs) {
  Series series{.name = name};
  for (const QualityRow& row : results.rows) {
    if (belongs(row)) series.points.emplace_back(100 * row.bytes_ratio(), row.longest().mean_kl);
  }
  std::sort(series.points.begin(), series.points.end());
  return series;
}

std::string quality_figure(const QualityResults& results) {
  LineChart chart{
      .title = fmt::format("Quality against bytes, windows of {} tokens, per-query selection",
                           results.rows.front().longest().window),
      .x_label = "keys and values read per token, percent of dense",
      .y_label = "mean KL(dense ‖ sparse), nats"};
  const QualityRow& automatic = results.rows.front();
  std::set<int32_t> counts;
  for (const QualityRow& row : results.rows) {
    if (row.group == "kascade" && &row != &automatic) counts.insert(row.anchors.value_or(0));
  }
  for (const int32_t anchors : counts) {
    chart.series.push_back(
        points_of(results, fmt::format("{} selecting layers", anchors), [&](const QualityRow& row) {
          return row.group == "kascade" && &row != &automatic && row.anchors == anchors;
        }));
  }
  // The automatic schedule has other dense layers, so its point lies on none of these lines.
  chart.series.push_back(points_of(results, automatic.label,
                                   [&](const QualityRow& row) { return &row == &automatic; }));
  for (const std::string kind : {"oracle", "quest", "streaming"}) {
    chart.series.push_back(points_of(results, kind, [&](const auto& row) {
      return row.group == "baseline" && row.label.starts_with(kind);
    }));
  }
  std::erase_if(chart.series, [](const Series& series) { return series.points.empty(); });
  return draw(chart);
}

std::string similarity_csv(const v1::CalibrationResult& schedule) {
  std::string text = "chooses,attends,similarity\n";
  for (int from = 0; from < schedule.similarity_size(); ++from) {
    const auto& row = schedule.similarity(from).to_layers();
    for (int i = 0; i < row.size(); ++i) {
      text += fmt::format("{},{},{:.6f}\n", from, from + i, row.Get(i));
    }
  }
  return text;
}

std::string recall_figure(const std::vector<RecallCell>& cells) {
  HeatMap map{.title = "Pass keys found by the automatic schedule, share of the cases",
              .x_label = "where the key stands, percent of the prompt",
              .y_label = "tokens of the prompt"};
  for (const RecallCell& cell : cells) {
    const std::string row = std::to_string(cell.tokens),
                      column = fmt::format("{:g}", 100 * cell.depth);
    if (map.rows.empty() || map.rows.back() != row) {
      map.rows.push_back(row);
      map.values.emplace_back();
    }
    if (map.rows.size() == 1) map.columns.push_back(column);
    map.values.back().push_back(static_cast<double>(cell.sparse_found) / cell.cases);
  }
  return draw(map);
}

std::string introduction(const QualityInputs& inputs, const QualityResults& results,
                         const std::string& command) {
  const auto& model = results.model.model();
  return fmt::format(
      "# What sparse attention costs in quality\n\n{}Model {} ({} layers, {} query and {} KV heads "
      "of {}, {} weights, {} cache). Schedules are made from {}, tried on {}: {} tokens in rolling "
      "windows, dense against sparse position by position, with per-query selection for scored "
      "tokens (strictly causal); figures with per-tile selection stand beside it. min_keys is {} "
      "here, and not the default 128, so that small shares of the keys act at every length; the "
      "tile family chooses as many tiles as the same share of 4,096 keys. Baselines at equal bytes "
      "stand beside the rows of 10 %. The schedules of tiles and experiments are built anew, with "
      "as many selecting layers as the automatic schedule and the same dense ones; layer costs are "
      "then measured beside those, so the schedule may be another, and 'as the default' is what "
      "experiments compare with. Pass keys: {} cases a row, {} for the automatic schedule, "
      "anywhere in prompts of {} tokens, three keys in each, asked for in {}; the recall by length "
      "and depth is of "
      "other prompts. Errors are standard errors over tokens; those of a comparison are paired, "
      "token by token. Made in {:.0f} minutes by\n\n```\n{}\n```\n\nwith {}. Digests of the model: "
      "weights `{}`, config.json `{}`, tokenizer.json `{}`.\n",
      results.broken_off.empty()
          ? ""
          : fmt::format("**INCOMPLETE**, {} rows: {}\n\n", results.rows.size(), results.broken_off),
      model.name(), model.layers(), model.heads(), model.kv_heads(), model.head_dim(),
      results.model.runtime().weights_dtype(), results.model.runtime().cache_dtype(),
      inputs.calibration.name, inputs.held_out.name, inputs.tokens, kMinKeys, inputs.cases,
      inputs.default_cases, results.recall.empty() ? 0 : results.recall.back().tokens,
      results.asked_in, results.seconds / 60, command, results.program, model.weights_digest(),
      model.config_digest(), model.tokenizer_digest());
}

constexpr char kColumns[] =
    "In the tables: layers that select keys, and dense layers, layer 0 counted in both; predicted "
    "similarity; check Δ %: change of the perplexity in the quality check, on the held-out part of "
    "what was calibrated on; layers that reuse ÷ layers; keys attended to and keys scored ÷ causal "
    "keys; bytes of keys and values read ÷ those of dense; Δ %: change of the perplexity with "
    "per-query selection in windows of so many tokens, ± one standard error; KL(dense ‖ sparse), "
    "nats; tile Δ %: the same change with per-tile selection; pass keys found, of how many. All "
    "columns are in [quality.csv](quality.csv).";

std::string page(const QualityInputs& inputs, const QualityResults& results,
                 const std::string& command) {
  std::string text = introduction(inputs, results, command) + "\n## Findings\n\n";
  for (const std::string& finding : quality_findings(results)) text += "- " + finding + "\n";
  text +=
      "\n![Quality against bytes](quality.svg)\n\n![The automatic schedule](schedule.svg)\n\n"
      "![Similarity of layers](similarity.svg)\n\n![Recall by depth and length](recall.svg)\n";
  const DataTable table = quality_table(results);
  std::vector<std::string> groups;
  for (const QualityRow& row : results.rows) {
    if (std::find(groups.begin(), groups.end(), row.group) == groups.end())
      groups.push_back(row.group);
  }
  text += fmt::format("\n{}\n", kColumns);
  for (const std::string& group : groups) text += "\n## " + group + "\n\n" + table.markdown(group);
  return text + "\n## Recall of the automatic schedule\n\n" + recall_table(results).markdown();
}

}  // namespace

DataTable quality_table(const QualityResults& results) {
  std::vector<DataTable::Column> columns = {{"group"},
                                            {"row", "Row", true},
                                            {"compared_with"},
                                            {"ratio"},
                                            {"selecting_layers", "Selecting"},
                                            {"dense_layers", "Dense"},
                                            {"predicted_similarity", "Predicted"},
                                            {"gate_change_percent", "Check Δ %"},
                                            {"gate_change_error_percent"},
                                            {"reuse_layers_ratio", "Reuse layers"},
                                            {"keys_attended_ratio", "Attended"},
                                            {"keys_scored_ratio", "Scored"},
                                            {"kv_bytes_per_token"},
                                            {"kv_bytes_ratio", "Bytes"}};
  for (const int32_t window : {512, 2048, 4096}) {
    const std::string at = fmt::format("_{}", window);
    const std::string title = with_commas(window);
    columns.push_back({"change_percent" + at, "Δ % " + title});
    columns.push_back({"change_error_percent" + at, window == 4096 ? "±" : ""});
    columns.push_back({"mean_kl" + at, "KL " + title});
    columns.push_back({"mean_kl_error" + at});
    columns.push_back({"tile_change_percent" + at, window == 4096 ? "tile Δ %" : ""});
    columns.push_back({"tile_mean_kl" + at});
  }
  columns.push_back({"pass_keys_found", "Found"});
  columns.push_back({"pass_key_cases", "of"});
  for (const char* name : {"longest_window", "tokens", "dense_perplexity", "kl_above_compared",
                           "kl_above_compared_error"}) {
    columns.push_back({name});
  }
  DataTable table(std::move(columns));
  for (const QualityRow& row : results.rows) table.add(cells_of(results, row));
  return table;
}

DataTable recall_table(const QualityResults& results) {
  DataTable table({{"tokens", "Tokens"},
                   {"depth", "Depth"},
                   {"cases", "Cases"},
                   {"dense_found", "Dense"},
                   {"sparse_found", "Sparse"},
                   {"dense_only"},
                   {"sparse_only"}});
  for (const RecallCell& cell : results.recall) {
    table.add({std::to_string(cell.tokens), fmt::format("{:g}", cell.depth),
               std::to_string(cell.cases), std::to_string(cell.dense_found),
               std::to_string(cell.sparse_found), std::to_string(cell.dense_only),
               std::to_string(cell.sparse_only)});
  }
  return table;
}

std::vector<ReportFile> quality_report(const QualityInputs& inputs, const QualityResults& results,
                                       const std::string& command) {
  return {{"README.md", page(inputs, results, command)},
          {"quality.csv", quality_table(results).csv()},
          {"recall.csv", recall_table(results).csv()},
          {"similarity.csv", similarity_csv(results.schedule)},
          {"quality.svg", quality_figure(results)},
          {"similarity.svg", similarity_figure(results.schedule)},
          {"schedule.svg", schedule_figure(results.schedule.schedule())},
          {"recall.svg", recall_figure(results.recall)}};
}

}  // namespace kascade::client
