#include "server/grpc/score_call.h"

#include <utility>

#include "server/grpc/message_size.h"

namespace kascade::server {
namespace {

Merged merge(v1::ScoreResponse& last, v1::ScoreResponse& next) {
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

}  // namespace

void ScoreCall::start(const v1::ScoreRequest& request, absl::Time deadline) {
  auto read = read_score(request, context().engine.model().layers, deadline);
  if (!read.ok()) return close(read.status());
  read->client = record().caller();
  scoring_.start(*read, shared_from_this());
}

void ScoreCall::started(const core::ScoringStarted& started) {
  v1::ScoreResponse response;
  to_proto(started, *response.mutable_started());
  send(std::move(response));
}

void ScoreCall::progress(const core::ScoringProgress& progress) {
  v1::ScoreResponse response;
  to_proto(progress, *response.mutable_progress());
  send(std::move(response), merge);
}

void ScoreCall::columns(const core::ScoredColumns& columns) {
  for (v1::ScoreTokens& tokens : to_proto(columns, columns_)) {
    v1::ScoreResponse response;
    *response.mutable_tokens() = std::move(tokens);
    send(std::move(response), merge);
  }
}

void ScoreCall::summary(const core::ScoringSummary& summary) {
  if (summary.input) record().tokens().scored += summary.tokens_scored;
  v1::ScoreResponse response;
  to_proto(summary, summary.input ? *response.mutable_summary() : *response.mutable_total());
  send(std::move(response));
}

void ScoreCall::ended(const absl::Status& status) { close(with_wire_field(status, fields_)); }

}  // namespace kascade::server
