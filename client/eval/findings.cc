#include "client/eval/findings.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "client/eval/recall_report.h"
#include "client/views/reports.h"
#include "tools/terminal/print.h"

namespace kascade::client {
namespace {

// Returns 1 if `first` finds more pass keys than `second` by more than two standard errors, −1 if
// it finds fewer by as much, and 0 otherwise. Each share is computed with one more success and one
// more failure, because otherwise a share of 100 % would have a standard error of 0.
int more_pass_keys(const QualityRow& first, const QualityRow& second) {
  double shares[2], variance = 0;
  int i = 0;
  for (const QualityRow* row : {&first, &second}) {
    const double cases = row->cases + 2, share = (row->found + 1) / cases;
    variance += share * (1 - share) / cases;
    shares[i++] = share;
  }
  const double difference = shares[0] - shares[1];
  if (std::abs(difference) <= 2 * std::sqrt(variance)) return 0;
  return difference > 0 ? 1 : -1;
}

std::string kl_text(const QualityRow& row) {
  const WindowFigures& figures = row.longest();
  return fmt::format("KL {:.4f} ± {:.4f}, {}, {}/{} pass keys", figures.mean_kl,
                     figures.mean_kl_error, signed_percent(figures.change_percent), row.found,
                     row.cases);
}

void compare_baselines(const QualityResults& results, std::vector<std::string>& findings) {
  for (const QualityRow& row : results.rows) {
    const QualityRow* kascade = comparison_row_of(results, row);
    if (row.group != "equal bytes" || kascade == nullptr) continue;
    const PairedDifference difference = paired_difference(row.longest(), kascade->longest());
    const int keys = more_pass_keys(row, *kascade);
    findings.push_back(
        fmt::format("At {:.1f} % of the bytes, {}: {}. Kascade at {:.1f} %, {}: {}. {} {}.{}",
                    100 * row.bytes_ratio(), name_of(row.baseline), kl_text(row),
                    100 * kascade->bytes_ratio(), kascade->label, kl_text(*kascade),
                    !difference.is_significant() ? "No difference beyond the error"
                    : difference.mean < 0        ? "**The baseline wins**"
                                                 : "Kascade is ahead",
                    difference.text(),
                    keys > 0   ? " By pass keys **the baseline wins**."
                    : keys < 0 ? " By pass keys Kascade is ahead."
                               : ""));
  }
  for (const QualityRow& row : results.rows) {
    if (row.baseline != v1::BASELINE_KIND_ORACLE || row.ratio != results.rows.front().ratio)
      continue;
    findings.push_back(
        fmt::format("Every layer choosing anew, each row its likeliest keys by exact probabilities "
                    "({}): {}, at "
                    "{:.1f} % of the bytes.",
                    row.label, kl_text(row), 100 * row.bytes_ratio()));
  }
}

// Reports the baselines that cannot be set to read as many bytes as a Kascade row at the default
// ratio.
void tell_missing(const QualityResults& results, std::vector<std::string>& findings) {
  for (const auto kind : {v1::BASELINE_KIND_STREAMING, v1::BASELINE_KIND_QUEST}) {
    double least = 1, most = 0;
    for (const QualityRow& row : results.rows) {
      if (row.group != "baseline" || row.baseline != kind) continue;
      least = std::min(least, row.bytes_ratio());
      most = std::max(most, row.bytes_ratio());
    }
    for (const QualityRow& row : results.rows) {
      if (row.group != "kascade" || row.ratio != results.rows.front().ratio || most == 0) continue;
      const bool compared = std::ranges::any_of(results.rows, [&](const QualityRow& other) {
        return other.group == "equal bytes" && other.baseline == kind &&
               other.comparison_row == row.label;
      });
      if (compared) continue;
      findings.push_back(
          fmt::format("Nothing of {} beside {:.1f} % of the bytes ({}): as measured it reads "
                      "{:.1f} to {:.1f} %.",
                      name_of(kind), 100 * row.bytes_ratio(), row.label, 100 * least, 100 * most));
    }
  }
}

// Joins the results of the rows whose label has this ending: "book.txt +1.28 ± 0.11 % (12288
// tokens), …". Empty if there are no such rows.
std::string domain_text(const QualityResults& results, const std::string& ending) {
  std::vector<std::string> told;
  for (const QualityRow& row : results.rows) {
    if (row.group != "domain" || !row.label.ends_with(ending)) continue;
    const WindowFigures& figures = row.longest();
    told.push_back(fmt::format(
        "{} {} ± {:.2f} % ({} tokens)", row.label.substr(0, row.label.size() - ending.size()),
        signed_fixed(figures.change_percent, 2), figures.change_error, figures.tokens));
  }
  return fmt::format("{}", fmt::join(told, ", "));
}

// Reports the loss on a longer part of each text, with the automatic schedule and with one that was
// calibrated on texts of all kinds.
void tell_domains(const QualityResults& results, std::vector<std::string>& findings) {
  const std::string one = domain_text(results, ", calibrated on the one text");
  if (!one.empty()) {
    findings.push_back(fmt::format("The automatic schedule on more of each text: {}.", one));
  }
  const std::string ending = ", calibrated on texts of all kinds";
  const auto mixed = std::ranges::find_if(results.rows, [&](const QualityRow& row) {
    return row.group == "domain" && row.label.ends_with(ending);
  });
  if (mixed == results.rows.end()) return;
  findings.push_back(fmt::format(
      "Calibrated on texts of all kinds instead ({}{} layers select, {} attend to all, {:.1f} % of "
      "the bytes): {}.",
      mixed->passed.value_or(true) ? "" : "**none passed the quality check**, the best: ",
      mixed->anchors.value_or(0), mixed->dense_layers.value_or(1), 100 * mixed->bytes_ratio(),
      domain_text(results, ending)));
}

// Reports the cheapest setting: among the rows with other numbers of anchors and keys, the
// one that reads the fewest bytes while its loss is not significantly above that of the automatic
// schedule.
void tell_cheapest(const QualityResults& results, std::vector<std::string>& findings) {
  const QualityRow& automatic = results.rows.front();
  const QualityRow* best = nullptr;
  for (const QualityRow& row : results.rows) {
    if (row.group != "kascade" || row.bytes_ratio() >= automatic.bytes_ratio()) continue;
    const PairedDifference difference = paired_difference(row.longest(), automatic.longest());
    if (difference.is_significant() && difference.mean > 0) continue;
    if (best == nullptr || row.bytes_ratio() < best->bytes_ratio()) best = &row;
  }
  if (best == nullptr) return;
  findings.push_back(
      fmt::format("Read least without more loss, beyond the error, than the automatic schedule "
                  "has ({}): {}, {:.1f} % of the bytes: {}.",
                  kl_text(automatic), best->label, 100 * best->bytes_ratio(), kl_text(*best)));
}

void compare_planners(const QualityResults& results, std::vector<std::string>& findings) {
  for (const QualityRow& dp : results.rows) {
    const QualityRow* greedy = comparison_row_of(results, dp);
    if (dp.group != "greedy" || greedy == nullptr) continue;
    if (greedy->reuse_layers_ratio == 0) {
      findings.push_back(fmt::format(
          "Greedy, {}: no layer is similar enough to reuse another's keys.", greedy->label));
      continue;
    }
    const PairedDifference difference = paired_difference(dp.longest(), greedy->longest());
    const int keys = more_pass_keys(dp, *greedy);
    findings.push_back(fmt::format(
        "{} selecting layers, greedy, {}: {}; planned by dynamic programming: {}: {} {}.{}",
        greedy->anchors.value_or(0), greedy->label, kl_text(*greedy), kl_text(dp),
        !difference.is_significant() ? "as good, within the error"
        : difference.mean > 0        ? "**worse**"
                                     : "better",
        difference.text(),
        keys < 0   ? " By pass keys **worse**."
        : keys > 0 ? " By pass keys better."
                   : ""));
  }
}

}  // namespace

const QualityRow* comparison_row_of(const QualityResults& results, const QualityRow& row) {
  if (row.comparison_row.empty()) return nullptr;
  const auto found = std::ranges::find_if(results.rows, [&](const QualityRow& other) {
    return other.label == row.comparison_row && other.comparison_row.empty();
  });
  return found == results.rows.end() ? nullptr : &*found;
}

bool PairedDifference::is_significant() const { return std::abs(mean) > 2 * error; }

std::string PairedDifference::text() const {
  return is_significant() ? fmt::format("by {:.4f} ± {:.4f}", std::abs(mean), error)
                          : fmt::format("({} ± {:.4f})", signed_fixed(mean, 4), error);
}

PairedDifference paired_difference(const WindowFigures& first, const WindowFigures& second) {
  const size_t count = std::min(first.kl.size(), second.kl.size());
  if (count < 2) return {};
  double sum = 0, squares = 0;
  for (size_t i = 0; i < count; ++i) sum += first.kl[i] - second.kl[i];
  const auto tokens = static_cast<double>(count);
  for (size_t i = 0; i < count; ++i) {
    const double rest = first.kl[i] - second.kl[i] - sum / tokens;
    squares += rest * rest;
  }
  return {sum / tokens, std::sqrt(squares / (tokens - 1) / tokens)};
}

std::vector<std::string> quality_findings(const QualityResults& results) {
  const QualityRow& row = results.rows.front();
  const WindowFigures& figures = row.longest();
  std::vector<std::string> findings = {fmt::format(
      "Automatic schedule, 10 % of the keys ({}{}; of {} layers {} select and {} attend to all, "
      "layer 0 counted in both): perplexity {} ± {:.2f} % at {} tokens ({:.3f} dense, {} "
      "tokens), KL {:.4f} nats; {:.1f} % of the bytes of keys and values are read, {:.1f} % of the "
      "keys attended to, {:.1f} % scored.",
      row.passed.value_or(true) ? "passed its quality check"
                                : "**none passed the quality check**, the best",
      row.quality_check_change
          ? fmt::format(" at {} ± {:.2f} %", signed_fixed(*row.quality_check_change, 2),
                        row.quality_check_error.value_or(0))
          : "",
      results.model.model().layers(), row.anchors.value_or(0), row.dense_layers.value_or(1),
      signed_fixed(figures.change_percent, 2), figures.change_error, figures.window,
      figures.dense_perplexity, figures.tokens, figures.mean_kl, 100 * row.bytes_ratio(),
      100 * row.keys_attended_ratio, 100 * row.keys_scored_ratio)};
  for (std::string& finding : recall_findings(results.recall)) {
    findings.push_back(std::move(finding));
  }
  tell_domains(results, findings);
  tell_cheapest(results, findings);
  compare_planners(results, findings);
  compare_baselines(results, findings);
  tell_missing(results, findings);
  return findings;
}

}  // namespace kascade::client
