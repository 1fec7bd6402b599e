#include "client/eval/recall_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "client/eval/sign_test.h"
#include "tools/terminal/print.h"

namespace kascade::client {
namespace {

Json cell_json(const RecallCell& cell) {
  return {{"tokens", cell.tokens},
          {"keys", cell.keys},
          {"depth", cell.depth < 0 ? Json(nullptr) : Json(cell.depth)},
          {"cases", cell.cases},
          {"dense_found", cell.dense_found},
          {"sparse_found", cell.sparse_found},
          {"dense_only", cell.dense_only},
          {"sparse_only", cell.sparse_only}};
}

Json cells_json(const std::vector<RecallCell>& cells) {
  Json out = Json::array();
  for (const RecallCell& cell : cells) out.push_back(cell_json(cell));
  return out;
}

}  // namespace

std::vector<RecallCell> recall_by_length(const std::vector<RecallCell>& cells) {
  std::vector<RecallCell> sums;
  for (const RecallCell& cell : cells) {
    auto sum = std::ranges::find(sums, cell.tokens, &RecallCell::tokens);
    if (sum == sums.end()) {
      sums.push_back({.tokens = cell.tokens, .keys = cell.keys});
      sum = sums.end() - 1;
    }
    sum->cases += cell.cases;
    sum->dense_found += cell.dense_found;
    sum->sparse_found += cell.sparse_found;
    sum->dense_only += cell.dense_only;
    sum->sparse_only += cell.sparse_only;
  }
  return sums;
}

double difference_points(const RecallCell& cell) {
  return 100.0 * (cell.dense_found - cell.sparse_found) / std::max(1, cell.cases);
}

std::vector<std::string> recall_findings(const std::vector<RecallCell>& cells) {
  const bool anywhere = !cells.empty() && cells.front().depth < 0;
  const std::string what =
      anywhere ? fmt::format("One of {} pass keys", cells.front().keys) : "Pass keys";
  std::vector<std::string> findings;
  for (const RecallCell& sum : recall_by_length(cells)) {
    findings.push_back(fmt::format(
        "{} in {} tokens: {}/{} found dense, {}/{} sparse. Dense less sparse: {} points, "
        "p = {:.3g} (two-sided sign test).",
        what, sum.tokens, sum.dense_found, sum.cases, sum.sparse_found, sum.cases,
        signed_fixed(difference_points(sum), 1),
        sign_test_p_value(sum.dense_only, sum.sparse_only)));
  }
  return findings;
}

Json recall_json(const std::vector<RecallCell>& single, const std::vector<RecallCell>& several) {
  Json by_length = Json::array();
  for (const auto* cells : {&single, &several}) {
    for (const RecallCell& sum : recall_by_length(*cells)) {
      Json entry = cell_json(sum);
      entry.erase("depth");
      entry["difference_points"] = difference_points(sum);
      entry["p_value"] = sign_test_p_value(sum.dense_only, sum.sparse_only);
      by_length.push_back(std::move(entry));
    }
  }
  return {{"pass_keys", cells_json(single)},
          {"several_pass_keys", cells_json(several)},
          {"by_length", std::move(by_length)}};
}

}  // namespace kascade::client
