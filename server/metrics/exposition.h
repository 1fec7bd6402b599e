// Metrics as Prometheus text, served over HTTP on /metrics.
#ifndef KASCADE_SERVER_METRICS_EXPOSITION_H_
#define KASCADE_SERVER_METRICS_EXPOSITION_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "prometheus/collectable.h"
#include "server/metrics/metrics.h"
#include "server/net/address.h"
#include "server/net/http_server.h"

namespace kascade::metrics {

// Serves the text of exposition_text() at `address`; both must outlive the listener. UNAVAILABLE:
// cannot listen there, with the reason.
absl::StatusOr<std::unique_ptr<net::HttpServer>> serve_metrics(
    const net::Address& address, const ServerMetrics& metrics,
    std::shared_ptr<prometheus::Collectable> engine);

// The text that /metrics gives.
std::string exposition_text(const ServerMetrics& metrics, const prometheus::Collectable& engine);

}  // namespace kascade::metrics

#endif  // KASCADE_SERVER_METRICS_EXPOSITION_H_
