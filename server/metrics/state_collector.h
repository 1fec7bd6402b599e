// The state of gRPC's connections and of the engine's thread, read when Prometheus asks for it.
#ifndef KASCADE_SERVER_METRICS_STATE_COLLECTOR_H_
#define KASCADE_SERVER_METRICS_STATE_COLLECTOR_H_

#include <functional>
#include <utility>
#include <vector>

#include "prometheus/collectable.h"
#include "prometheus/metric_family.h"
#include "server/net/connections.h"

namespace kascade::metrics {

class StateCollector : public prometheus::Collectable {
 public:
  // `connections` and what `engine_stalled` looks at must outlive the collector.
  StateCollector(const net::Connections& connections, std::function<bool()> engine_stalled)
      : connections_(connections), engine_stalled_(std::move(engine_stalled)) {}
  std::vector<prometheus::MetricFamily> Collect() const override;

 private:
  const net::Connections& connections_;
  const std::function<bool()> engine_stalled_;
};

}  // namespace kascade::metrics

#endif  // KASCADE_SERVER_METRICS_STATE_COLLECTOR_H_
