// How busy the server is, for load balancers that look at the end of each call: an ORCA load report
// (gRFC A51). gRPC's own recorder cannot be switched on in its C++ library of version 1.51.
#ifndef KASCADE_SERVER_GRPC_LOAD_REPORT_H_
#define KASCADE_SERVER_GRPC_LOAD_REPORT_H_

#include <string>

#include "server/core/server_context.h"

namespace kascade::server {

// The trailing metadata that gRPC clients and Envoy read it from.
inline constexpr char kLoadReportHeader[] = "endpoint-load-metrics-bin";

// The bytes of an xds.data.orca.v3.OrcaLoadReport: the used shares of the KV cache and of the
// memory of requests, sequences that run and wait, and as utilization of the application the share
// of the places that is wanted (running and waiting ÷ max_sequences), or of the KV cache if that is
// larger.
std::string load_report(const core::ServerContext& context);

}  // namespace kascade::server

#endif  // KASCADE_SERVER_GRPC_LOAD_REPORT_H_
