// The engine's own counters, read when Prometheus asks for them.
#ifndef KASCADE_SERVER_METRICS_ENGINE_COLLECTOR_H_
#define KASCADE_SERVER_METRICS_ENGINE_COLLECTOR_H_

#include <vector>

#include "engine/engine.h"
#include "prometheus/collectable.h"
#include "prometheus/metric_family.h"

namespace kascade::metrics {

class EngineCollector : public prometheus::Collectable {
 public:
  explicit EngineCollector(const Engine& engine) : engine_(engine) {}
  std::vector<prometheus::MetricFamily> Collect() const override;

 private:
  const Engine& engine_;
};

}  // namespace kascade::metrics

#endif  // KASCADE_SERVER_METRICS_ENGINE_COLLECTOR_H_
