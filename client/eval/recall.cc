#include "client/eval/recall.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <utility>

namespace kascade::client {
namespace {

constexpr int32_t kShortestDefault = 1024;
constexpr double kDepths[] = {0.05, 0.25, 0.5, 0.75, 0.95};

absl::StatusOr<RecallCell> measure_cell(Session& session, const PromptStyle& style,
                                        const std::vector<int32_t>& filler,
                                        const PassKeyOptions& options) {
  v1::AttentionOptions dense, sparse;
  dense.set_mode(v1::ATTENTION_MODE_DENSE);
  sparse.set_mode(v1::ATTENTION_MODE_SPARSE);
  const auto by_dense = find_pass_keys(session, style, options, filler, dense);
  if (!by_dense.ok()) return by_dense.status();
  const auto by_sparse = find_pass_keys(session, style, options, filler, sparse);
  if (!by_sparse.ok()) return by_sparse.status();
  RecallCell cell{.tokens = options.tokens,
                  .keys = options.keys,
                  .depth = options.depth,
                  .cases = options.cases};
  for (size_t i = 0; i < by_dense->size(); ++i) {
    const bool first = (*by_dense)[i], second = (*by_sparse)[i];
    cell.dense_found += first ? 1 : 0;
    cell.sparse_found += second ? 1 : 0;
    cell.dense_only += first && !second ? 1 : 0;
    cell.sparse_only += second && !first ? 1 : 0;
  }
  return cell;
}

absl::Status check_lengths(const std::vector<int32_t>& lengths, int32_t longest,
                           int64_t text_tokens) {
  for (const int32_t tokens : lengths) {
    if (tokens > longest) {
      return absl::InvalidArgumentError(fmt::format(
          "--lengths: must be at most {}, so that prompt and answer fit the model's context, its "
          "sliding window and the server's cache; got {}",
          longest, tokens));
    }
    if (tokens > text_tokens) {
      return absl::InvalidArgumentError(
          fmt::format("--held-out: the text has {} tokens, prompts of {} tokens need as many",
                      text_tokens, tokens));
    }
  }
  return absl::OkStatus();
}

}  // namespace

int32_t longest_prompt(const v1::GetModelInfoResponse& info, const PromptStyle& style) {
  int64_t most = info.model().context_length();
  if (info.model().has_sliding_window()) {
    most = std::min<int64_t>(most, info.model().sliding_window());
  }
  // A server that does not tell how large its cache is has room for a context.
  if (info.limits().cache_tokens() > 0) most = std::min(most, info.limits().cache_tokens());
  return static_cast<int32_t>(most) - style.answer_tokens;
}

absl::StatusOr<std::vector<int32_t>> recall_lengths(std::vector<int32_t> asked, int32_t longest,
                                                    int64_t text_tokens) {
  if (asked.empty()) {
    for (int64_t tokens = kShortestDefault; tokens <= std::min<int64_t>(longest, text_tokens);
         tokens *= 2) {
      asked.push_back(static_cast<int32_t>(tokens));
    }
    if (longest <= text_tokens) asked.push_back(longest);
    if (asked.empty()) asked.push_back(std::min(longest, kShortestDefault));
  }
  std::ranges::sort(asked);
  const auto repeated = std::ranges::unique(asked);
  asked.erase(repeated.begin(), repeated.end());
  if (auto status = check_lengths(asked, longest, text_tokens); !status.ok()) return status;
  return asked;
}

absl::StatusOr<std::vector<bool>> find_pass_keys(Session& session, const PromptStyle& style,
                                                 const PassKeyOptions& options,
                                                 const std::vector<int32_t>& filler,
                                                 const v1::AttentionOptions& attention) {
  const auto cases =
      draw_pass_keys(options, style.wording, filler, style.frame,
                     [&](const std::vector<std::string>& texts) { return session.encode(texts); });
  if (!cases.ok()) return cases.status();
  std::vector<bool> found;
  for (const PassKeyCase& one : *cases) {
    v1::GenerateRequest request;
    request.mutable_token_ids()->mutable_ids()->Add(one.prompt.begin(), one.prompt.end());
    request.mutable_sampling()->set_temperature(0);
    request.mutable_stopping()->set_max_new_tokens(style.answer_tokens);
    *request.mutable_attention() = attention;
    const auto answer = session.generate(request);
    if (!answer.ok()) return answer.status();
    found.push_back(style.is_answer(answer->text, one.key));
  }
  return found;
}

absl::StatusOr<std::vector<RecallCell>> measure_recall(Session& session, const PromptStyle& style,
                                                       const std::vector<int32_t>& filler,
                                                       const RecallOptions& options) {
  std::vector<RecallCell> cells;
  for (const int32_t tokens : options.lengths) {
    for (const double depth : kDepths) {
      auto cell = measure_cell(session, style, filler,
                               {.cases = options.cases / static_cast<int32_t>(std::size(kDepths)),
                                .tokens = tokens,
                                .keys = options.keys,
                                .depth = depth,
                                .seed = 1000 + cells.size()});
      if (!cell.ok()) return cell.status();
      cells.push_back(*cell);
    }
  }
  return cells;
}

absl::StatusOr<std::vector<RecallCell>> measure_recall_anywhere(Session& session,
                                                                const PromptStyle& style,
                                                                const std::vector<int32_t>& filler,
                                                                const RecallOptions& options) {
  std::vector<RecallCell> cells;
  for (const int32_t tokens : options.lengths) {
    auto cell = measure_cell(session, style, filler,
                             {.cases = options.cases,
                              .tokens = tokens,
                              .keys = options.keys,
                              .seed = 2000 + cells.size()});
    if (!cell.ok()) return cell.status();
    cells.push_back(*cell);
  }
  return cells;
}

}  // namespace kascade::client
