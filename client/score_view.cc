#include "client/score_view.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cmath>

#include "client/print.h"

namespace kascade::client {
namespace {

bool is_sparse(const v1::ScoreSummary& summary) {
  return summary.has_comparison() || summary.attention().mode() == v1::ATTENTION_MODE_SPARSE;
}

// What one run gave, from its sums.
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
}

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
  const bool compared = summary.has_comparison();
  out[is_sparse(summary) && !compared ? "sparse" : "dense"] = run_json(summary.nll_sum(), summary);
  if (compared) {
    out["sparse"] = run_json(summary.comparison().sparse_nll_sum(), summary);
    add_comparison(summary.comparison(), out);
  }
  out["nll_standard_error"] = summary.mean_nll_standard_error();
  out["perplexity_standard_error"] = summary.perplexity_standard_error();
  out["bits_per_byte"] = summary.has_bits_per_byte() ? Json(summary.bits_per_byte()) : Json();
  out["top1_ratio"] = summary.top1_ratio();
  add_attention(summary.attention(), out);
  out["suspect"] = summary.suspect();
  out["suspect_causes"] = summary.suspect_causes();
  return out;
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

std::string runs_table(const v1::ScoreSummary& summary) {
  const bool compared = summary.has_comparison();
  const Json first = run_json(summary.nll_sum(), summary);
  const Json second = run_json(summary.comparison().sparse_nll_sum(), summary);
  std::vector<Table::Column> columns = {{"", Table::Align::kLeft},
                                        {is_sparse(summary) && !compared ? "Sparse" : "Dense"}};
  if (compared) columns.push_back({"Sparse"});
  columns.push_back({"", Table::Align::kLeft});
  Table table(std::move(columns));
  const auto add = [&](const char* title, const char* key, const std::string& unit) {
    if (!first.contains(key)) return;
    std::vector<std::string> row = {title, fmt::format("{:.4f}", first[key].get<double>())};
    if (compared) row.push_back(fmt::format("{:.4f}", second[key].get<double>()));
    row.push_back(unit);
    table.add(std::move(row));
  };
  add("Perplexity", "perplexity",
      fmt::format("per token, ± {:.4f}", summary.perplexity_standard_error()));
  add("NLL", "nll", fmt::format("nats per token, ± {:.4f}", summary.mean_nll_standard_error()));
  add("Word perplexity", "word_perplexity", "");
  add("Byte perplexity", "byte_perplexity", "");
  add("Bits per byte", "bits_per_byte", "");
  return table.text();
}

void add_facts(const v1::Comparison& comparison, Facts& facts) {
  facts.add("Degradation", comparison.has_degradation_percent()
                               ? signed_percent(comparison.degradation_percent(), 4)
                               : "not told, as the model is suspect");
  facts.add("Mean KL", fmt::format("{:.5f} nats per token", comparison.mean_kl()));
  facts.add("Same top-1", percent(comparison.same_top1_ratio()) + " of the tokens");
  facts.add("Largest difference",
            fmt::format("{:.4f} nats at one token", comparison.max_logprob_difference()));
}

void add_facts(const v1::AttentionReport& report, Facts& facts) {
  facts.add("Reuse layers", percent(report.reuse_layers_ratio()) + " of the layers");
  facts.add("Keys attended", percent(report.keys_attended_ratio()) + " of the causal keys");
  facts.add("Keys scored", percent(report.keys_scored_ratio()) + " of the causal keys");
  facts.add("KV read",
            fmt::format("{} per token (dense: {})", bytes(report.kv_bytes_read_per_token()),
                        bytes(report.dense_kv_bytes_read_per_token())));
}

std::string verdict(const v1::ScoreSummary& summary) {
  if (summary.suspect()) return paint(Colour::kRed, "SUSPECT") + ": see the warning\n";
  const double degradation = summary.comparison().degradation_percent();
  if (degradation < 2) return paint(Colour::kGreen, "SUCCESS") + ": below 2 %\n";
  if (degradation < 5) return paint(Colour::kYellow, "GOOD") + ": below the target of 5 %\n";
  return paint(Colour::kRed, "TOO MUCH") +
         ": 5 % or more; calibrate with a higher --ratio (tile family: --top-k 16)\n";
}

std::string summary_text(const ScoreRun& run, const v1::ScoreSummary& summary) {
  Facts head;
  head.add("Text", size_text(summary));
  head.add("Protocol", protocol_text(summary));
  std::string mode = name_of(run.started.mode());
  if (is_sparse(summary)) {
    mode += fmt::format("; keys by the {} rule; schedule {}", name_of(summary.phase()),
                        summary.attention().schedule_id());
  }
  head.add("Attention", mode);
  std::string out = head.text() + "\n" + runs_table(summary);
  Facts facts;
  if (summary.has_comparison()) add_facts(summary.comparison(), facts);
  if (is_sparse(summary)) add_facts(summary.attention(), facts);
  const std::string rest = facts.text();
  if (!rest.empty()) out += "\n" + rest;
  if (summary.has_comparison()) out += "Verdict: " + verdict(summary);
  return out;
}

}  // namespace

std::string score_text(const ScoreRun& run) {
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
    entry.update(summary_json(run.summaries[i]));
    if (!run.tokens[i].empty()) entry["token_columns"] = tokens_json(run, i);
    out["files"].push_back(std::move(entry));
  }
  return out;
}

std::string token_table(const ScoreRun& run, size_t file) {
  const bool compared = run.total.has_comparison();
  std::vector<Table::Column> columns = {
      {"Position"}, {"Id"}, {"Token", Table::Align::kLeft}, {"Log p (nats)"}, {"Top-1"}};
  if (compared) columns.insert(columns.end(), {{"Sparse log p"}, {"KL (nats)"}});
  Table table(std::move(columns));
  for (const auto& part : run.tokens[file]) {
    for (int i = 0; i < part.token_ids_size(); ++i) {
      const int64_t position = part.first_position() + i;
      std::vector<std::string> row = {std::to_string(position), std::to_string(part.token_ids(i)),
                                      run.spelled[file].token_texts(static_cast<int>(position)),
                                      fmt::format("{:.4f}", part.logprobs(i)),
                                      part.top1(i) ? "yes" : ""};
      if (compared) {
        row.push_back(fmt::format("{:.4f}", part.sparse_logprobs(i)));
        row.push_back(fmt::format("{:.5f}", part.kl(i)));
      }
      table.add(std::move(row));
    }
  }
  return table.text();
}

std::string suspicion(const v1::ScoreSummary& summary) {
  constexpr double kUnusual = 100;
  if (!summary.suspect() && summary.perplexity() > kUnusual) {
    return fmt::format(
        "perplexity {:.1f} is above {:g}, unusual for natural text: the text is not of the kind "
        "that "
        "the model was trained on, or the checkpoint or its tokenizer is not what it should be",
        summary.perplexity(), kUnusual);
  }
  if (!summary.suspect()) return "";
  const std::string causes =
      summary.suspect_causes().empty()
          ? "RoPE layout of the checkpoint, w1 and w3 swapped, another model's tokenizer, missing "
            "rope scaling"
          : fmt::format("{}", fmt::join(summary.suspect_causes(), "; "));
  return fmt::format(
      "NLL {:.4f} is hardly better than guessing: the model does not understand this text, and no "
      "degradation can be read off it. Usual causes: {}",
      summary.mean_nll(), causes);
}

}  // namespace kascade::client
