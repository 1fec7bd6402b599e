#include "client/eval/recall.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

namespace kascade::client {
namespace {

constexpr int32_t kAnswerTokens = 12;  // five digits and what a tokenizer may put around them
constexpr int32_t kLongestTokens = 4096;
constexpr double kDepths[] = {0.05, 0.25, 0.5, 0.75, 0.95};

bool answers(const std::string& text, const std::string& key) {
  const size_t begin = text.find_first_not_of(" \n");
  if (begin == std::string::npos || text.compare(begin, key.size(), key) != 0) return false;
  const size_t end = begin + key.size();
  // the answer must not be a longer number
  return end == text.size() || text[end] < '0' || text[end] > '9';
}

}  // namespace

int32_t longest_prompt(const Session& session) {
  return std::min(session.info().model().context_length(), kLongestTokens) - kAnswerTokens;
}

absl::StatusOr<int32_t> find_pass_keys(Session& session, const PassKeyOptions& options,
                                       const std::vector<int32_t>& filler,
                                       const v1::AttentionOptions& attention) {
  const auto& model = session.info().model();
  const auto cases =
      draw_pass_keys(options, plain_wording(), filler, model.adds_bos() ? model.bos_token_id() : -1,
                     [&](const std::vector<std::string>& texts) { return session.encode(texts); });
  if (!cases.ok()) return cases.status();
  int32_t found = 0;
  for (const PassKeyCase& one : *cases) {
    v1::GenerateRequest request;
    request.mutable_token_ids()->mutable_ids()->Add(one.prompt.begin(), one.prompt.end());
    request.mutable_sampling()->set_temperature(0);
    request.mutable_stopping()->set_max_new_tokens(kAnswerTokens);
    *request.mutable_attention() = attention;
    const auto answer = session.generate(request);
    if (!answer.ok()) return answer.status();
    found += answers(answer->text, one.key) ? 1 : 0;
  }
  return found;
}

absl::StatusOr<std::vector<RecallCell>> measure_recall(Session& session,
                                                       const std::vector<int32_t>& filler,
                                                       int32_t cases) {
  const int32_t longest = longest_prompt(session);
  std::vector<int32_t> lengths = {1024, 2048, longest};
  std::erase_if(lengths, [&](int32_t tokens) { return tokens > longest; });
  std::vector<RecallCell> cells;
  v1::AttentionOptions dense, sparse;
  dense.set_mode(v1::ATTENTION_MODE_DENSE);
  sparse.set_mode(v1::ATTENTION_MODE_SPARSE);
  for (const int32_t tokens : lengths) {
    for (const double depth : kDepths) {
      RecallCell cell{.tokens = tokens,
                      .depth = depth,
                      .cases = cases / static_cast<int32_t>(std::size(kDepths))};
      const PassKeyOptions options{
          .cases = cell.cases, .tokens = tokens, .depth = depth, .seed = 1000 + cells.size()};
      const auto by_dense = find_pass_keys(session, options, filler, dense);
      if (!by_dense.ok()) return by_dense.status();
      const auto by_sparse = find_pass_keys(session, options, filler, sparse);
      if (!by_sparse.ok()) return by_sparse.status();
      cell.dense_found = *by_dense;
      cell.sparse_found = *by_sparse;
      cells.push_back(cell);
    }
  }
  return cells;
}

std::vector<std::string> recall_findings(const std::vector<RecallCell>& cells) {
  std::map<int32_t, RecallCell> by_length;
  for (const RecallCell& cell : cells) {
    RecallCell& sum = by_length[cell.tokens];
    sum.cases += cell.cases;
    sum.dense_found += cell.dense_found;
    sum.sparse_found += cell.sparse_found;
  }
  std::vector<std::string> findings;
  for (const auto& [tokens, cell] : by_length) {
    findings.push_back(fmt::format("Pass keys in {} tokens: {}/{} found dense, {}/{} sparse.",
                                   tokens, cell.dense_found, cell.cases, cell.sparse_found,
                                   cell.cases));
  }
  return findings;
}

}  // namespace kascade::client
