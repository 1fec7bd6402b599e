#include "server/grpc/trace_call.h"

#include <utility>

#include "server/grpc/translate_attention.h"

namespace kascade::server {
namespace {

Merged merge(v1::TraceResponse& last, v1::TraceResponse& next) {
  if (!last.has_progress() || !next.has_progress()) return Merged::kNothing;
  last.Swap(&next);
  return Merged::kReplaced;
}

}  // namespace

void TraceCall::start(const v1::TraceRequest& request, absl::Time deadline) {
  auto read = read_trace(request, context().engine.model().layers, deadline);
  if (!read.ok()) return close(read.status());
  read->client = record().caller();
  tracing_.start(*read, shared_from_this());
}

void TraceCall::started(const core::TracingStarted& started) {
  v1::TraceResponse response;
  to_proto(started, *response.mutable_started());
  send(std::move(response));
}

void TraceCall::progress(int32_t tokens_done, int32_t tokens_total) {
  v1::TraceResponse response;
  response.mutable_progress()->set_tokens_done(tokens_done);
  response.mutable_progress()->set_tokens_total(tokens_total);
  send(std::move(response), merge);
}

void TraceCall::layer(const LayerTrace& layer) {
  for (v1::LayerTrace& part : to_proto(layer)) {
    v1::TraceResponse response;
    *response.mutable_layer() = std::move(part);
    send(std::move(response));
  }
}

void TraceCall::map(const TraceMap& map) {
  for (v1::TraceMap& part : to_proto(map)) {
    v1::TraceResponse response;
    *response.mutable_map() = std::move(part);
    send(std::move(response));
  }
}

void TraceCall::finished(const AttentionCounts& counts, const AttentionChoice& attention) {
  v1::TraceResponse response;
  *response.mutable_finished()->mutable_attention() =
      report_attention(counts, attention, mode_of(attention));
  send(std::move(response));
}

void TraceCall::ended(const absl::Status& status) { close(with_wire_field(status, fields_)); }

}  // namespace kascade::server
