#include "tools/format_report/report_view.h"

#include <fmt/format.h>

#include "engine/quality/percentile.h"
#include "engine/quality/perplexity.h"
#include "engine/quality/standard_error.h"
#include "tools/terminal/print.h"

namespace kascade::format_report {
namespace {

using client::Table;
using client::with_commas;
using nlohmann::ordered_json;

double kl_error(const LossSums& loss) {
  return standard_error(loss.sums.kl, loss.kl_squares, loss.sums.tokens);
}

double kl_percentile_99(const LossSums& loss) {
  std::vector<float> values = loss.kl;  // percentile() reorders them
  return percentile(values, 99);
}

double perplexity_of(double nll_sum, const LossSums& loss) {
  return perplexity(mean_nll(nll_sum, loss.sums.tokens));
}

std::string f32_perplexity(const LossSums& loss) {
  return client::fixed(perplexity_of(loss.sums.first_nll, loss), 4);
}

std::vector<std::string> memory_cells(const FormatMemory& memory) {
  return {std::string(name_of(memory.format)), std::string(name_of(memory.cache)),
          client::bytes(static_cast<double>(memory.bytes)),
          client::fixed(memory.bits_per_weight, 2)};
}

Table format_table(const FormatReport& report) {
  Table table({{"Weights", Table::Align::kLeft},
               {"KV cache", Table::Align::kLeft},
               {"Bytes"},
               {"Bits per weight"},
               {"Perplexity"},
               {"NLL rise"},
               {"Mean KL"},
               {"99 % of KL below"},
               {"Same top token"}});
  std::vector<std::string> f32 = memory_cells(report.f32);
  f32.push_back(f32_perplexity(report.formats.front().all));
  f32.resize(9);
  table.add(std::move(f32));
  for (const FormatResult& result : report.formats) {
    const PairedDifference rise = nll_rise(result.all.sums);
    std::vector<std::string> cells = memory_cells(result.memory);
    cells.push_back(client::fixed(perplexity_of(result.all.sums.second_nll, result.all), 4));
    cells.push_back(
        fmt::format("{} ± {}", client::signed_fixed(rise.mean, 5), client::fixed(rise.error, 5)));
    cells.push_back(fmt::format("{} ± {}", client::fixed(mean_kl(result.all.sums), 6),
                                client::fixed(kl_error(result.all), 6)));
    cells.push_back(client::fixed(kl_percentile_99(result.all), 4));
    cells.push_back(client::percent(same_top1_ratio(result.all.sums)));
    table.add(std::move(cells));
  }
  return table;
}

Table text_table(const FormatReport& report) {
  std::vector<Table::Column> columns = {
      {"Mean KL by text", Table::Align::kLeft}, {"Tokens"}, {"f32 perplexity"}};
  for (const FormatResult& result : report.formats) {
    columns.push_back({std::string(name_of(result.memory.format))});
  }
  Table table(std::move(columns));
  for (size_t i = 0; i < report.texts.size(); ++i) {
    const LossSums& first = report.formats.front().texts[i];
    std::vector<std::string> cells = {report.texts[i], with_commas(first.sums.tokens),
                                      f32_perplexity(first)};
    for (const FormatResult& result : report.formats) {
      cells.push_back(client::fixed(mean_kl(result.texts[i].sums), 5));
    }
    table.add(std::move(cells));
  }
  return table;
}

// A checkpoint with blocks has a dtype of its own for each matrix.
std::string stored_as(const FormatReport& report) {
  return has_blocks(report.checkpoint_dtype) ? "blocks"
                                             : std::string(name_of(report.checkpoint_dtype));
}

ordered_json memory_json(const FormatMemory& memory) {
  return {{"weights", name_of(memory.format)},
          {"kv_cache", name_of(memory.cache)},
          {"bytes", memory.bytes},
          {"bits_per_weight", memory.bits_per_weight}};
}

void add_loss(const LossSums& loss, ordered_json& json) {
  const PairedDifference rise = nll_rise(loss.sums);
  json["tokens"] = loss.sums.tokens;
  json["f32_nll"] = mean_nll(loss.sums.first_nll, loss.sums.tokens);
  json["f32_perplexity"] = perplexity_of(loss.sums.first_nll, loss);
  json["nll"] = mean_nll(loss.sums.second_nll, loss.sums.tokens);
  json["perplexity"] = perplexity_of(loss.sums.second_nll, loss);
  json["nll_rise"] = rise.mean;
  json["nll_rise_standard_error"] = rise.error;
  json["mean_kl"] = mean_kl(loss.sums);
  json["mean_kl_standard_error"] = kl_error(loss);
  json["kl_percentile_99"] = kl_percentile_99(loss);
  json["same_top1"] = same_top1_ratio(loss.sums);
}

}  // namespace

std::string report_text(const FormatReport& report) {
  std::string text = fmt::format("Model  {}: {} parameters, stored as {}\n", report.model,
                                 with_commas(report.parameters), stored_as(report));
  text += fmt::format("Texts  {} of {}, {} tokens each\n",
                      client::counted(report.windows_per_text, "window"),
                      fmt::join(report.texts, ", "), with_commas(report.window_tokens));
  text += fmt::format(
      "Run    each format beside f32 weights with an f32 KV cache, dense attention, {} tokens "
      "compared; NLL and KL(f32 || format) in nats per token\n",
      with_commas(report.formats.front().all.sums.tokens));
  for (const std::string& reason : report.left_out) text += fmt::format("Not    {}\n", reason);
  return text + "\n" + format_table(report).text() + "\n" + text_table(report).text();
}

ordered_json report_json(const FormatReport& report) {
  ordered_json json = {{"model", report.model},
                       {"weights_digest", report.weights_digest},
                       {"stored_as", stored_as(report)},
                       {"parameters", report.parameters},
                       {"instruction_set", report.instruction_set},
                       {"threads", report.threads},
                       {"window_tokens", report.window_tokens},
                       {"windows_per_text", report.windows_per_text},
                       {"texts", report.texts},
                       {"left_out", report.left_out},
                       {"f32", memory_json(report.f32)}};
  json["formats"] = ordered_json::array();
  for (const FormatResult& result : report.formats) {
    ordered_json format = memory_json(result.memory);
    add_loss(result.all, format);
    format["by_text"] = ordered_json::array();
    for (size_t i = 0; i < report.texts.size(); ++i) {
      ordered_json text = {{"text", report.texts[i]}};
      add_loss(result.texts[i], text);
      format["by_text"].push_back(std::move(text));
    }
    json["formats"].push_back(std::move(format));
  }
  return json;
}

}  // namespace kascade::format_report
