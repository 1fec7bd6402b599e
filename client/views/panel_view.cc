#include "client/views/panel_view.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "tools/terminal/print.h"

namespace kascade::client {
namespace {

std::string change_text(const v1::KindQuality& kind) {
  return fmt::format("{} ± {:.4f}", signed_percent(kind.degradation_percent(), 4),
                     kind.degradation_percent_standard_error());
}

std::string kinds_table(const v1::QualityReport& quality) {
  using enum Table::Align;
  Table table({{"Kind", kLeft},
               {"Windows"},
               {"Tokens"},
               {"Dense PPL"},
               {"Sparse PPL"},
               {"ΔPPL"},
               {"Mean KL (nats)"},
               {"99th percentile"},
               {"Same top-1"},
               {"", kLeft}});
  for (const v1::KindQuality& kind : quality.kinds()) {
    table.add({kind.kind(), std::to_string(kind.windows()), with_commas(kind.tokens()),
               fixed(kind.dense_perplexity(), 4), fixed(kind.sparse_perplexity(), 4),
               change_text(kind), fixed(kind.mean_kl(), 5), fixed(kind.kl_99th_percentile(), 4),
               percent(kind.same_top1_ratio()), kind.passed() ? "passed" : "too much"});
  }
  return table.text();
}

std::string retrieval_table(const v1::QualityReport& quality) {
  Table table({{"Prompt tokens"},
               {"Asked"},
               {"Dense"},
               {"Sparse"},
               {"Lost"},
               {"p"},
               {"", Table::Align::kLeft}});
  for (const v1::RetrievalQuality& row : quality.retrieval()) {
    const bool measurable = row.has_sparse_found();
    table.add({row.prompt_tokens() > 0 ? with_commas(row.prompt_tokens()) : "all",
               std::to_string(row.asked()), std::to_string(row.dense_found()),
               measurable ? std::to_string(row.sparse_found()) : "-",
               measurable ? std::to_string(row.lost()) : "-",
               measurable ? fixed(row.p_value(), 3) : "-",
               !measurable    ? "not measurable: dense attention finds fewer than half"
               : row.passed() ? "passed"
                              : "too few"});
  }
  return table.text();
}

// By how much the perplexity may have risen, one standard error included [percent].
double risen(const v1::KindQuality& kind) {
  return kind.degradation_percent() + kind.degradation_percent_standard_error();
}

}  // namespace

std::string panel_text(const v1::QualityReport& quality) {
  if (quality.kinds().empty()) return "";
  std::string out = fmt::format("Checked up to {}, by kind of text:\n{}",
                                counted(quality.checked_tokens(), "token"), kinds_table(quality));
  if (quality.retrieval().empty()) return out;
  return out + "Pass keys that are found in held-out text:\n" + retrieval_table(quality);
}

const v1::KindQuality& worst_kind(const v1::QualityReport& quality) {
  return *std::ranges::max_element(quality.kinds(), {}, risen);
}

std::string deciding_row_text(const v1::QualityReport& quality) {
  for (const v1::RetrievalQuality& row : quality.retrieval()) {
    if (row.passed()) continue;
    const std::string length = row.prompt_tokens() > 0
                                   ? "in prompts of " + counted(row.prompt_tokens(), "token")
                                   : "in prompts of all lengths";
    return fmt::format("{}, dense attention finds {} of {} and sparse attention {}", length,
                       row.dense_found(), counted(row.asked(), "pass key"), row.sparse_found());
  }
  if (quality.kinds().empty()) return "";
  const v1::KindQuality& worst = worst_kind(quality);
  return fmt::format("the perplexity of {} changes by {}", worst.kind(), change_text(worst));
}

void add_panel(const v1::QualityReport& quality, Json& out) {
  Json kinds = Json::array(), retrieval = Json::array();
  for (const v1::KindQuality& kind : quality.kinds()) {
    kinds.push_back(
        {{"kind", kind.kind()},
         {"windows", kind.windows()},
         {"tokens", kind.tokens()},
         {"dense_perplexity", kind.dense_perplexity()},
         {"sparse_perplexity", kind.sparse_perplexity()},
         {"degradation_percent", kind.degradation_percent()},
         {"degradation_percent_standard_error", kind.degradation_percent_standard_error()},
         {"mean_kl", kind.mean_kl()},
         {"kl_99th_percentile", kind.kl_99th_percentile()},
         {"same_top1", kind.same_top1_ratio()},
         {"passed", kind.passed()}});
  }
  for (const v1::RetrievalQuality& row : quality.retrieval()) {
    retrieval.push_back(
        {{"prompt_tokens", row.prompt_tokens()},
         {"asked", row.asked()},
         {"dense_found", row.dense_found()},
         {"sparse_found", row.has_sparse_found() ? Json(row.sparse_found()) : Json(nullptr)},
         {"lost", row.lost()},
         {"p_value", row.p_value()},
         {"passed", row.passed()}});
  }
  out["checked_tokens"] = quality.checked_tokens();
  out["kinds"] = std::move(kinds);
  out["retrieval"] = std::move(retrieval);
}

}  // namespace kascade::client
