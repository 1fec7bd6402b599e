#include "client/benchmark/benchmark_report.h"

#include <fmt/format.h>

#include "client/eval/data_table.h"
#include "client/eval/figures.h"
#include "client/eval/schedule_figures.h"
#include "client/views/score_view.h"
#include "tools/terminal/print.h"

namespace kascade::client {
namespace {

const char* title(Work work) { return work == Work::kPrefill ? "prefill" : "decode"; }

std::string speed_figure(const std::vector<SpeedComparison>& speed) {
  LineChart chart{.title = "Median time of a prompt (prefill) and of a new token (decode)",
                  .x_label = "tokens",
                  .y_label = "milliseconds"};
  for (const Work work : {Work::kPrefill, Work::kDecode}) {
    Series dense{.name = fmt::format("{}, dense", title(work))};
    Series sparse{.name = fmt::format("{}, sparse", title(work))};
    for (const SpeedComparison& one : speed) {
      if (one.work != work) continue;
      dense.points.emplace_back(one.tokens, one.dense.median());
      sparse.points.emplace_back(one.tokens, one.sparse.median());
    }
    chart.series.push_back(std::move(dense));
    chart.series.push_back(std::move(sparse));
  }
  return draw(chart);
}

std::string speed_table(const std::vector<SpeedComparison>& speed) {
  DataTable table({{"work", "Work", true},
                   {"tokens", "Tokens"},
                   {"attention_share", "Attention's share"},
                   {"dense", "Dense, median ms (least to largest)"},
                   {"sparse", "Sparse, median ms (least to largest)"},
                   {"speedup", "Speedup"}});
  const auto times = [](const RunTimes& runs) {
    return fmt::format("{:.3f} ({:.3f} to {:.3f})", runs.median(), runs.least(), runs.largest());
  };
  for (const SpeedComparison& one : speed) {
    table.add({title(one.work), with_commas(one.tokens), percent(one.attention_share, 1),
               times(one.dense), times(one.sparse), fmt::format("{:.2f}x", one.speedup())});
  }
  return table.markdown();
}

std::string page(const v1::GetModelInfoResponse& info, const BenchmarkSettings& settings,
                 const BenchmarkResults& results) {
  const v1::ScoreSummary& score = results.score;
  const Verdict verdict = verdict_of(score);
  std::string sentences;
  for (const SpeedComparison& one : results.speed) sentences += "- " + speed_sentence(one) + "\n";
  return fmt::format(
      "# {}: dense against sparse\n\n"
      "{}Model {} ({} layers, {} parameters, weights {}, cache {}); server {}.\n\n"
      "The schedule was made from {} tokens; {} other tokens, which it had not seen, were "
      "scored.\n\n"
      "| | |\n| --- | --- |\n"
      "| Dense perplexity | {:.4f} ± {:.4f} |\n| Sparse perplexity | {:.4f} ± {:.4f} |\n"
      "| Degradation | {} |\n| Keys attended | {} of the causal keys |\n"
      "| Reuse layers | {} of the layers |\n"
      "| KV read per token | {} (dense: {}) |\n| Verdict | {}: {} |\n\n"
      "## Schedule\n\n![schedule](schedule.svg)\n\n![similarity](similarity.svg)\n\n"
      "## Speed\n\n{}\n{}\n![speed](speed.svg)\n",
      settings.model, device_line(info.runtime()), info.model().name(), info.model().layers(),
      with_commas(info.model().parameters()), info.runtime().weights_dtype(),
      info.runtime().cache_dtype(), info.server_version(), with_commas(results.calibration_tokens),
      with_commas(results.held_out_tokens), score.perplexity(), score.perplexity_standard_error(),
      score.comparison().sparse_perplexity(), score.comparison().sparse_perplexity_standard_error(),
      degradation_text(score.comparison()), percent(score.attention().keys_attended_ratio()),
      percent(score.attention().reuse_layers_ratio()),
      bytes(score.attention().kv_bytes_read_per_token()),
      bytes(score.attention().dense_kv_bytes_read_per_token()), verdict.word, verdict.reason,
      speed_table(results.speed), sentences);
}

}  // namespace

std::vector<ReportFile> benchmark_report(const v1::GetModelInfoResponse& info,
                                         const BenchmarkInputs& inputs,
                                         const BenchmarkSettings& settings,
                                         const BenchmarkResults& results) {
  return {{"report.md", page(info, settings, results)},
          {"schedule.svg", schedule_figure(results.calibration.schedule())},
          {"similarity.svg", similarity_figure(results.calibration)},
          {"speed.svg", speed_figure(results.speed)},
          {"benchmark.json", benchmark_json(info, inputs, settings, results).dump(2) + "\n"}};
}

}  // namespace kascade::client
