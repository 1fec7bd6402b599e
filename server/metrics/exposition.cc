#include "server/metrics/exposition.h"

#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "prometheus/text_serializer.h"

namespace kascade::metrics {

absl::StatusOr<std::unique_ptr<net::HttpServer>> serve_metrics(
    const net::Address& address, const ServerMetrics& metrics,
    std::shared_ptr<prometheus::Collectable> engine) {
  auto server =
      net::HttpServer::start(address, {.path = "/metrics",
                                       .content_type = "text/plain; version=0.0.4; charset=utf-8",
                                       .body = [&metrics, engine = std::move(engine)] {
                                         return exposition_text(metrics, *engine);
                                       }});
  if (server.ok()) return server;
  return absl::Status(server.status().code(), absl::StrCat("metrics: ", server.status().message()));
}

std::string exposition_text(const ServerMetrics& metrics, const prometheus::Collectable& engine) {
  const prometheus::TextSerializer serializer;
  return serializer.Serialize(metrics.registry->Collect()) + serializer.Serialize(engine.Collect());
}

}  // namespace kascade::metrics
