#include "server/metrics/exposition.h"

#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "prometheus/text_serializer.h"

namespace kascade::metrics {

absl::StatusOr<std::unique_ptr<net::HttpServer>> serve_metrics(const net::Address& address,
                                                               const ServerMetrics& metrics,
                                                               const Collectors& collectors,
                                                               std::vector<net::Page> pages) {
  const auto text = [&metrics, collectors] {
    return net::PageText{.text = exposition_text(metrics, collectors)};
  };
  pages.push_back({.path = "/metrics",
                   .content_type = "text/plain; version=0.0.4; charset=utf-8",
                   .content = text});
  auto server = net::HttpServer::start(address, std::move(pages));
  if (server.ok()) return server;
  return absl::Status(server.status().code(), absl::StrCat("metrics: ", server.status().message()));
}

std::string exposition_text(const ServerMetrics& metrics, const Collectors& collectors) {
  const prometheus::TextSerializer serializer;
  std::string text = serializer.Serialize(metrics.registry->Collect());
  for (const auto& collector : collectors) text += serializer.Serialize(collector->Collect());
  return text;
}

}  // namespace kascade::metrics
