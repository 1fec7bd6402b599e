// Metrics as Prometheus text, served over HTTP on /metrics, beside pages for orchestrators.
#ifndef KASCADE_SERVER_METRICS_EXPOSITION_H_
#define KASCADE_SERVER_METRICS_EXPOSITION_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "prometheus/collectable.h"
#include "server/metrics/metrics.h"
#include "server/net/address.h"
#include "server/net/http_server.h"

namespace kascade::metrics {

// What is measured elsewhere than in ServerMetrics.
using Collectors = std::vector<std::shared_ptr<prometheus::Collectable>>;

// Serves the text of exposition_text() as /metrics at `address`, and `pages` beside it. `metrics`
// must outlive the listener. UNAVAILABLE: cannot listen there, with the reason.
absl::StatusOr<std::unique_ptr<net::HttpServer>> serve_metrics(const net::Address& address,
                                                               const ServerMetrics& metrics,
                                                               const Collectors& collectors,
                                                               std::vector<net::Page> pages);

// The text that /metrics gives.
std::string exposition_text(const ServerMetrics& metrics, const Collectors& collectors);

}  // namespace kascade::metrics

#endif  // KASCADE_SERVER_METRICS_EXPOSITION_H_
