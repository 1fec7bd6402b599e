#include "client/views/score_view.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cmath>

#include "client/commands/attention_flags.h"
#include "tools/terminal/print.h"

namespace kascade::client {
namespace {

bool is_sparse(const v1::ScoreSummary& summary) {
  return summary.has_comparison() || summary.attention().mode() == v1::ATTENTION_MODE_SPARSE;
}

// Whether the comparison is the default one of dense and sparse attention, and not one of two named
// runs.
bool is_dense_and_sparse(const v1::ScoreSummary& summary) {
  const auto& second = summary.attention();
  return !summary.has_first_attention() && (second.has_baseline() || !second.schedule_id().empty());
}

// Derives the results of one run from its sums.
Json run_json(double nll_sum, const v1::ScoreSummary& summary) {
  const auto scored = static_cast<double>(summary.tokens_scored());
  const double nll = scored > 0 ? nll_sum / scored : 0;
  Json out = {{"nll", nll}, {"nll_sum", nll_sum}, {"perplexity", std::exp(nll)}};
  if (summary.bytes_scored() > 0) {
    const double per_byte = nll_sum / static_cast<double>(summary.bytes_scored());
    out["word_perplexity"] = std::exp(nll_sum / static_cast<double>(summary.words_scored()));
    out["byte_perplexity"] = std::exp(per_byte);
    out["bits_per_byte"] = per_byte / std::log(2.0);
  }
  return out;
}

void add_comparison(const v1::Comparison& comparison, Json& out) {
  out["degradation_percent"] =
      comparison.has_degradation_percent() ? Json(comparison.degradation_percent()) : Json(nullptr);
  out["mean_kl"] = comparison.mean_kl();
  out["same_top1"] = comparison.same_top1_ratio();
  out["max_logprob_difference"] = comparison.max_logprob_difference();
  out["degradation_percent_standard_error"] =
      comparison.has_degradation_percent_standard_error()
          ? Json(comparison.degradation_percent_standard_error())
          : Json(nullptr);
  out["mean_logprob_difference"] = comparison.mean_logprob_difference();
  out["mean_logprob_difference_standard_error"] =
      comparison.mean_logprob_difference_standard_error();
  out["mean_kl_standard_error"] = comparison.mean_kl_standard_error();
  out["max_kl"] = comparison.max_kl();
  Json& percentiles = out["logprob_difference_percentiles"] = Json::object();
  for (const auto& entry : comparison.logprob_difference_percentiles()) {
    percentiles[fmt::format("{:g}", entry.percent())] = entry.difference();
  }
}

Json sparse_json(const v1::Comparison& comparison, const v1::ScoreSummary& summary) {
  Json out = run_json(comparison.sparse_nll_sum(), summary);
  out["nll_standard_error"] = comparison.sparse_mean_nll_standard_error();
  out["perplexity_standard_error"] = comparison.sparse_perplexity_standard_error();
  return out;
}

// Adds the results of the runs under the names "dense" and "sparse", or "first" and "second" if the
// request named the two runs.
void add_runs(const v1::ScoreSummary& summary, Json& out) {
  const bool compared = summary.has_comparison();
  const bool named = compared && !is_dense_and_sparse(summary);
  const char* second = named ? "second" : "sparse";
  const char* first = named ? "first" : is_sparse(summary) && !compared ? "sparse" : "dense";
  out[first] = run_json(summary.nll_sum(), summary);
  if (compared) {
    out[second] = sparse_json(summary.comparison(), summary);
    add_comparison(summary.comparison(), out);
  }
  if (named) {
    out["first"]["attention"] = choice_json(summary.first_attention().choice());
    out["second"]["attention"] = choice_json(summary.attention().choice());
  }
  if (summary.has_first_attention()) add_attention(summary.first_attention(), out["first"]);
  if (!summary.has_tile_comparison()) return;
  Json& tile = out["tile"];
  tile[second] = sparse_json(summary.tile_comparison(), summary);
  add_comparison(summary.tile_comparison(), tile);
  if (summary.has_tile_first_attention()) {
    add_attention(summary.tile_first_attention(), tile["first"]);
  }
  add_attention(summary.tile_attention(), tile);
}

Json tokens_json(const ScoreRun& run, size_t file) {
  Json columns = {{"positions", Json::array()}, {"token_ids", Json::array()},
                  {"texts", Json::array()},     {"logprobs", Json::array()},
                  {"top1", Json::array()},      {"sparse_logprobs", Json::array()},
                  {"kl", Json::array()}};
  for (const auto& part : run.tokens[file]) {
    for (int i = 0; i < part.token_ids_size(); ++i) {
      const int64_t position = part.first_position() + i;
      columns["positions"].push_back(position);
      columns["token_ids"].push_back(part.token_ids(i));
      columns["texts"].push_back(run.spelled[file].token_texts(static_cast<int>(position)));
      columns["logprobs"].push_back(part.logprobs(i));
      columns["top1"].push_back(part.top1(i));
    }
    for (const float logprob : part.sparse_logprobs()) {
      columns["sparse_logprobs"].push_back(logprob);
    }
    for (const float kl : part.kl()) columns["kl"].push_back(kl);
  }
  return columns;
}

std::string size_text(const v1::ScoreSummary& summary) {
  return fmt::format("{} ({} scored: {}, {})", counted(summary.tokens(), "token"),
                     with_commas(summary.tokens_scored()), counted(summary.words_scored(), "word"),
                     counted(summary.bytes_scored(), "byte"));
}

std::string protocol_text(const v1::ScoreSummary& summary) {
  std::string out =
      fmt::format("{}: {} of at most {}", name_of(summary.protocol()),
                  counted(summary.windows(), "window"), counted(summary.window_tokens(), "token"));
  if (summary.stride_tokens() > 0) out += fmt::format(", stride {}", summary.stride_tokens());
  return out + (summary.begins_with_bos() ? ", with BOS" : ", without BOS");
}

// Returns the comparisons that the summary has: the one with per-query selection (or the selection
// that was requested), and the one with per-tile selection.
std::vector<const v1::Comparison*> comparisons_of(const v1::ScoreSummary& summary) {
  std::vector<const v1::Comparison*> out;
  if (summary.has_comparison()) out.push_back(&summary.comparison());
  if (summary.has_tile_comparison()) out.push_back(&summary.tile_comparison());
  return out;
}

std::string runs_table(const v1::ScoreSummary& summary) {
  const bool only_sparse = is_sparse(summary) && !summary.has_comparison();
  std::vector<Json> runs = {run_json(summary.nll_sum(), summary)};
  runs[0]["nll_standard_error"] = summary.mean_nll_standard_error();
  runs[0]["perplexity_standard_error"] = summary.perplexity_standard_error();
  const bool named = summary.has_comparison() && !is_dense_and_sparse(summary);
  const std::string second = named ? "Second run" : "Sparse";
  std::vector<Table::Column> columns = {{"", Table::Align::kLeft},
                                        {named         ? "First run"
                                         : only_sparse ? "Sparse"
                                                       : "Dense"}};
  for (const auto* comparison : comparisons_of(summary)) {
    columns.push_back({runs.size() == 1 ? second : second + ", per tile"});
    runs.push_back(sparse_json(*comparison, summary));
  }
  columns.push_back({"", Table::Align::kLeft});
  Table table(std::move(columns));
  const auto add = [&](const char* title, const std::string& key, const char* unit) {
    if (!runs[0].contains(key)) return;
    std::vector<std::string> row = {title};
    for (const Json& run : runs) row.push_back(fmt::format("{:.4f}", run[key].get<double>()));
    row.push_back(unit);
    table.add(std::move(row));
  };
  add("Perplexity", "perplexity", "per token");
  add("  standard error", "perplexity_standard_error", "");
  add("NLL", "nll", "nats per token");
  add("  standard error", "nll_standard_error", "");
  add("Word perplexity", "word_perplexity", "");
  add("Byte perplexity", "byte_perplexity", "");
  add("Bits per byte", "bits_per_byte", "");
  return table.text();
}

// Whether keys were selected for each scored token or for each tile.
const char* granularity(const v1::ScoreSummary& summary) {
  return summary.phase() == v1::SELECTION_PHASE_TILE ? "per-tile" : "per-query";
}

// A table with one column per comparison.
std::string comparisons_table(const v1::ScoreSummary& summary) {
  const auto comparisons = comparisons_of(summary);
  const char* const titles[] = {"Per-query selection", "Per-tile selection"};
  std::vector<Table::Column> columns = {{"", Table::Align::kLeft}};
  for (size_t i = 0; i < comparisons.size(); ++i) {
    columns.push_back({comparisons.size() == 1 ? "" : titles[i], Table::Align::kLeft});
  }
  Table table(std::move(columns));
  const auto add = [&](std::string title, auto text) {
    std::vector<std::string> row = {std::move(title)};
    for (const auto* comparison : comparisons) row.push_back(text(*comparison));
    table.add(std::move(row));
  };
  add("Degradation", [](const v1::Comparison& c) { return degradation_text(c); });
  add("Mean KL", [](const v1::Comparison& c) {
    return fmt::format("{} ± {:.5f} nats per token", fixed(c.mean_kl(), 5),
                       c.mean_kl_standard_error());
  });
  add("Largest KL",
      [](const v1::Comparison& c) { return fixed(c.max_kl(), 4) + " nats at one token"; });
  add("Same top-1",
      [](const v1::Comparison& c) { return percent(c.same_top1_ratio()) + " of the tokens"; });
  add("Largest difference", [](const v1::Comparison& c) {
    return fmt::format("{:.4f} nats at one token", c.max_logprob_difference());
  });
  const char* difference = is_dense_and_sparse(summary) ? "sparse - dense" : "second - first";
  add("Mean difference", [difference](const v1::Comparison& c) {
    return fmt::format("{} ± {:.5f} nats ({} log p)", signed_fixed(c.mean_logprob_difference(), 5),
                       c.mean_logprob_difference_standard_error(), difference);
  });
  const auto& percentiles = summary.comparison().logprob_difference_percentiles();
  for (int i = 0; i < percentiles.size(); ++i) {
    add(fmt::format("  {:g} % are below", percentiles[i].percent()),
        [i](const v1::Comparison& c) -> std::string {
          if (i >= c.logprob_difference_percentiles_size()) return "";
          return signed_fixed(c.logprob_difference_percentiles(i).difference(), 5);
        });
  }
  return table.text();
}

void add_facts(const v1::AttentionReport& report, const std::string& run, Facts& facts) {
  const auto add = [&](const char* title, const std::string& text) {
    facts.add(run + title, text);
  };
  add("Reuse layers", percent(report.reuse_layers_ratio()) + " of the layers");
  add("Keys attended", percent(report.keys_attended_ratio()) + " of the causal keys");
  add("Keys scored", percent(report.keys_scored_ratio()) + " of the causal keys");
  add("KV read", fmt::format("{} per token (dense: {})", bytes(report.kv_bytes_read_per_token()),
                             bytes(report.dense_kv_bytes_read_per_token())));
  if (report.dense_positions() == 0) return;
  add("Below dense_below",
      counted(report.dense_positions(), "position") + ", where all keys are read");
}

std::string summary_text(const ScoreRun& run, const v1::ScoreSummary& summary) {
  Facts head;
  head.add("Text", size_text(summary));
  head.add("Protocol", protocol_text(summary));
  std::string mode = name_of(run.started.mode());
  if (summary.has_comparison() && !is_dense_and_sparse(summary)) {
    mode += fmt::format("; {} selection; {} beside {}", granularity(summary),
                        text_of(summary.first_attention().choice()),
                        text_of(summary.attention().choice()));
  } else if (is_sparse(summary)) {
    mode += fmt::format("; {} selection; {}", granularity(summary), source_of(summary.attention()));
  }
  head.add("Attention", mode);
  std::string out = head.text() + "\n" + runs_table(summary);
  if (summary.has_comparison()) out += "\n" + comparisons_table(summary);
  Facts facts;
  if (summary.has_first_attention()) add_facts(summary.first_attention(), "First run: ", facts);
  const bool named = summary.has_first_attention();
  if (is_sparse(summary)) add_facts(summary.attention(), named ? "Second run: " : "", facts);
  const std::string rest = facts.text();
  if (!rest.empty()) out += (summary.has_comparison() ? "" : "\n") + rest;
  if (summary.has_comparison()) out += "Verdict: " + text_of(verdict_of(summary)) + "\n";
  return out;
}

}  // namespace

Json summary_json(const v1::ScoreSummary& summary) {
  Json out = {{"tokens", summary.tokens()},
              {"tokens_scored", summary.tokens_scored()},
              {"words_scored", summary.words_scored()},
              {"bytes_scored", summary.bytes_scored()},
              {"windows", summary.windows()},
              {"protocol", name_of(summary.protocol())},
              {"window_tokens", summary.window_tokens()},
              {"stride_tokens", summary.stride_tokens()},
              {"begins_with_bos", summary.begins_with_bos()},
              {"phase", name_of(summary.phase())}};
  add_runs(summary, out);
  out["nll_standard_error"] = summary.mean_nll_standard_error();
  out["perplexity_standard_error"] = summary.perplexity_standard_error();
  out["bits_per_byte"] = summary.has_bits_per_byte() ? Json(summary.bits_per_byte()) : Json();
  out["top1_ratio"] = summary.top1_ratio();
  add_attention(summary.attention(), out);
  out["suspect"] = summary.suspect();
  out["suspect_causes"] = summary.suspect_causes();
  out["doubts"] = summary.doubts();
  return out;
}

std::string degradation_text(const v1::Comparison& comparison) {
  if (!comparison.has_degradation_percent()) return "not told, as the model is suspect";
  return fmt::format("{} ± {:.4f}", signed_percent(comparison.degradation_percent(), 4),
                     comparison.degradation_percent_standard_error());
}

Verdict verdict_of(const v1::ScoreSummary& summary) {
  if (summary.suspect()) {
    return {"SUSPECT", "the dense model is hardly better than guessing; see the warning"};
  }
  if (!summary.doubts().empty()) {
    return {"DOUBTFUL",
            "the dense model does not do what a working one does on natural text; see the warning"};
  }
  if (!is_dense_and_sparse(summary)) {
    return {"NONE", "only dense beside sparse is judged", Colour::kYellow};
  }
  return degradation_verdict(summary.comparison().degradation_percent(),
                             summary.attention().keys_attended_ratio());
}

std::string ScoreRun::name(size_t text) const {
  return lines.empty() ? files[text] : fmt::format("{}:{}", files[text], lines[text]);
}

// Of lines, which may be thousands, only the total is told.
std::string score_text(const ScoreRun& run) {
  if (!run.lines.empty()) {
    const std::string title = counted(static_cast<int64_t>(run.lines.size()), "line");
    return paint(Colour::kBold, title + " scored one by one") + "\n" + summary_text(run, run.total);
  }
  std::string out;
  for (size_t i = 0; i < run.files.size() && run.files.size() > 1; ++i) {
    out += paint(Colour::kBold, run.files[i]) + "\n" + summary_text(run, run.summaries[i]) + "\n";
  }
  if (run.files.size() > 1) out += paint(Colour::kBold, "All files") + "\n";
  return out + summary_text(run, run.total);
}

Json score_json(const ScoreRun& run) {
  Json out = {{"mode", name_of(run.started.mode())}};
  out.update(summary_json(run.total));
  out["files"] = Json::array();
  for (size_t i = 0; i < run.files.size(); ++i) {
    Json entry = {{"file", run.files[i]}};
    if (!run.lines.empty()) entry["line"] = run.lines[i];
    entry.update(summary_json(run.summaries[i]));
    if (!run.tokens[i].empty()) entry["token_columns"] = tokens_json(run, i);
    out["files"].push_back(std::move(entry));
  }
  return out;
}

std::string token_table(const ScoreRun& run, size_t text) {
  const bool compared = run.total.has_comparison();
  std::vector<Table::Column> columns = {
      {"Position"}, {"Id"}, {"Token", Table::Align::kLeft}, {"Log p (nats)"}, {"Top-1"}};
  const bool usual = is_dense_and_sparse(run.total);
  if (compared)
    columns.insert(columns.end(), {{usual ? "Sparse log p" : "Second log p"}, {"KL (nats)"}});
  Table table(std::move(columns));
  for (const auto& part : run.tokens[text]) {
    for (int i = 0; i < part.token_ids_size(); ++i) {
      const int64_t position = part.first_position() + i;
      std::vector<std::string> row = {std::to_string(position), std::to_string(part.token_ids(i)),
                                      run.spelled[text].token_texts(static_cast<int>(position)),
                                      fixed(part.logprobs(i), 4), part.top1(i) ? "yes" : ""};
      if (compared) {
        row.push_back(fixed(part.sparse_logprobs(i), 4));
        row.push_back(fixed(part.kl(i), 5));
      }
      table.add(std::move(row));
    }
  }
  return table.text();
}

std::string suspicion(const v1::ScoreSummary& summary) {
  std::string reasons = fmt::format("{}", fmt::join(summary.doubts(), "; "));
  if (summary.suspect()) {
    reasons = fmt::format(
        "NLL {:.4f} is hardly better than guessing: the model does not understand this text, and "
        "no degradation can be read off it",
        summary.mean_nll());
  }
  if (reasons.empty() || summary.suspect_causes().empty()) return reasons;
  return fmt::format("{}. Usual causes: {}", reasons, fmt::join(summary.suspect_causes(), "; "));
}

}  // namespace kascade::client
