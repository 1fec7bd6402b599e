// Metrics as Prometheus text, served over HTTP on /metrics.
#ifndef KASCADE_SERVER_METRICS_EXPOSITION_H_
#define KASCADE_SERVER_METRICS_EXPOSITION_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "prometheus/collectable.h"
#include "prometheus/exposer.h"
#include "server/metrics/metrics.h"

namespace kascade::metrics {

// The HTTP listener; stops when destroyed.
class Listener {
 public:
  // `address` is "host:port". UNAVAILABLE: cannot listen there.
  static absl::StatusOr<std::unique_ptr<Listener>> start(
      const std::string& address, const ServerMetrics& metrics,
      std::shared_ptr<prometheus::Collectable> engine);

  int port() const { return port_; }

 private:
  Listener() = default;

  std::shared_ptr<prometheus::Collectable> engine_;
  std::unique_ptr<prometheus::Exposer> exposer_;
  int port_ = 0;
};

// The text that /metrics gives; for tests.
std::string exposition_text(const ServerMetrics& metrics, const prometheus::Collectable& engine);

}  // namespace kascade::metrics

#endif  // KASCADE_SERVER_METRICS_EXPOSITION_H_
