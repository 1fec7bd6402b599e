// The stream of a Trace.
#ifndef KASCADE_SERVER_GRPC_TRACE_CALL_H_
#define KASCADE_SERVER_GRPC_TRACE_CALL_H_

#include <vector>

#include "kascade/v1/trace.pb.h"
#include "server/core/tracing.h"
#include "server/grpc/stream_call.h"
#include "server/grpc/translate_trace.h"

namespace kascade::server {

class TraceCall final : public StreamCall<v1::TraceResponse>, public core::TracingSink {
 public:
  TraceCall(ServerContext& context, const v1::TraceRequest& request)
      : StreamCall(context, "Trace"), fields_(trace_fields(request)), tracing_(context, *this) {}

  void start(const v1::TraceRequest& request, absl::Time deadline);

 private:
  void cancelled() override { tracing_.cancel(); }

  void started(const core::TracingStarted& started) override;
  void progress(int32_t tokens_done, int32_t tokens_total) override;
  void layer(const LayerTrace& layer) override;
  void map(const TraceMap& map) override;
  void finished(const AttentionCounts& counts, const AttentionChoice& attention) override;
  void ended(const absl::Status& status) override;

  const std::vector<FieldName> fields_;
  core::Tracing tracing_;
};

}  // namespace kascade::server

#endif  // KASCADE_SERVER_GRPC_TRACE_CALL_H_
