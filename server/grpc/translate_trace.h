// Trace on the wire ↔ the core.
#ifndef KASCADE_SERVER_GRPC_TRANSLATE_TRACE_H_
#define KASCADE_SERVER_GRPC_TRANSLATE_TRACE_H_

#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "kascade/v1/trace.pb.h"
#include "server/core/tracing.h"
#include "server/grpc/errors.h"

namespace kascade::server {

// Points into `in`. `layers` of the model. INVALID_ARGUMENT for what the core's types cannot
// express.
absl::StatusOr<core::TracingRequest> read_trace(const v1::TraceRequest& in, int32_t layers,
                                                absl::Time deadline);
// How a client knows the fields that the core finds at fault.
std::vector<FieldName> trace_fields(const v1::TraceRequest& in);

void to_proto(const core::TracingStarted& started, v1::TraceStarted& out);
// As many messages as the selected keys, or the cells, need.
std::vector<v1::LayerTrace> to_proto(const LayerTrace& layer);
std::vector<v1::TraceMap> to_proto(const TraceMap& map);

}  // namespace kascade::server

#endif  // KASCADE_SERVER_GRPC_TRANSLATE_TRACE_H_
