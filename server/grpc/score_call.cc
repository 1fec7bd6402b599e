#include "server/grpc/score_call.h"

#include <utility>

#include "server/grpc/message_size.h"

namespace kascade::server {

Merged merge_score_responses(v1::ScoreResponse& last, v1::ScoreResponse& next) {
  if (last.has_progress() && next.has_progress()) {
    last.Swap(&next);
    return Merged::kReplaced;
  }
  if (!last.has_tokens() || !next.has_tokens()) return Merged::kNothing;
  const auto& tokens = last.tokens();
  const bool adjoins =
      tokens.input_index() == next.tokens().input_index() &&
      tokens.first_position() + tokens.token_ids_size() == next.tokens().first_position() &&
      tokens.token_ids_size() + next.tokens().token_ids_size() <= kMaxTokensPerMessage;
  if (!adjoins) return Merged::kNothing;
  const int64_t first = tokens.first_position();
  last.mutable_tokens()->MergeFrom(next.tokens());
  last.mutable_tokens()->set_first_position(first);
  return Merged::kAppended;
}

void ScoreCall::start(const v1::ScoreRequest& request, absl::Time deadline) {
  set_options(request);
  auto read = read_score(request, context().engine.model().layers, deadline);
  if (!read.ok()) return close(read.status());
  start_scoring(*std::move(read));
}

}  // namespace kascade::server
