#include "server/grpc/generate_call.h"

#include <utility>

#include "server/grpc/message_size.h"

namespace kascade::server {
namespace {

Merged merge_deltas(v1::GenerateResponse& last, v1::GenerateResponse& next) {
  if (!last.has_delta() || !next.has_delta()) return Merged::kNothing;
  const int32_t tokens = last.delta().token_count() + next.delta().token_count();
  if (tokens > kMaxTokensPerMessage) return Merged::kNothing;
  last.mutable_delta()->mutable_text()->append(next.delta().text());
  next.mutable_delta()->clear_text();
  last.mutable_delta()->MergeFrom(next.delta());
  last.mutable_delta()->set_token_count(tokens);
  return Merged::kAppended;
}

}  // namespace

void GenerateCall::start(const v1::GenerateRequest& request, absl::Time deadline) {
  auto read = read_generate(request, context().engine.model().layers, deadline);
  if (!read.ok()) return close(read.status());
  read->client = record().caller();
  generation_.start(*std::move(read), shared_from_this());
}

void GenerateCall::started(const core::GenerationStarted& started) {
  record().tokens().prompt = static_cast<int64_t>(started.prompt_tokens.size());
  v1::GenerateResponse response;
  to_proto(started, columns_, *response.mutable_started());
  send(std::move(response));
}

void GenerateCall::delta(core::GenerationDelta delta) {
  record().tokens().generated += static_cast<int64_t>(delta.tokens.size());
  v1::GenerateResponse response;
  to_proto(std::move(delta), columns_, *response.mutable_delta());
  send(std::move(response), merge_deltas);
}

void GenerateCall::finished(const core::GenerationFinished& finished) {
  v1::GenerateResponse response;
  to_proto(finished, *response.mutable_finished());
  send(std::move(response));
}

void GenerateCall::ended(const absl::Status& status) { close(with_wire_field(status, fields_)); }

}  // namespace kascade::server
