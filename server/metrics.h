// What the server measures, under one name each. Prometheus text is served on /metrics.
#ifndef KASCADE_SERVER_METRICS_H_
#define KASCADE_SERVER_METRICS_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "engine/engine.h"
#include "grpcpp/support/status.h"
#include "prometheus/collectable.h"
#include "prometheus/counter.h"
#include "prometheus/exposer.h"
#include "prometheus/family.h"
#include "prometheus/gauge.h"
#include "prometheus/histogram.h"
#include "prometheus/registry.h"

namespace kascade::server {

struct Metrics {
  Metrics();

  // One finished call.
  void finish_rpc(const std::string& rpc, const grpc::Status& status, double seconds);
  // One calibration that ended: passed, not_passed, failed, cancelled.
  void finish_calibration(const std::string& outcome);

  const std::shared_ptr<prometheus::Registry> registry;
  prometheus::Family<prometheus::Counter>& rpc_requests;    // {rpc, code}
  prometheus::Family<prometheus::Histogram>& rpc_duration;  // {rpc}
  prometheus::Gauge& rpc_in_flight;
  prometheus::Histogram& time_to_first_token;
  prometheus::Histogram& inter_token_latency;
  prometheus::Histogram& queue_time;
  prometheus::Histogram& prefill_time;
  prometheus::Histogram& request_prompt_tokens;
  prometheus::Histogram& request_generated_tokens;
  prometheus::Family<prometheus::Counter>& calibrations;  // {outcome}
  prometheus::Gauge& calibration_progress;                // of the stage that runs
};

// Reads the engine when Prometheus asks.
class EngineCollectable : public prometheus::Collectable {
 public:
  explicit EngineCollectable(const Engine& engine) : engine_(engine) {}
  std::vector<prometheus::MetricFamily> Collect() const override;

 private:
  const Engine& engine_;
};

// The HTTP listener; stops when destroyed.
class MetricsListener {
 public:
  // `address` is "host:port". UNAVAILABLE: cannot listen there.
  static absl::StatusOr<std::unique_ptr<MetricsListener>> start(
      const std::string& address, const Metrics& metrics,
      std::shared_ptr<prometheus::Collectable> engine);

  int port() const { return port_; }

 private:
  MetricsListener() = default;

  std::shared_ptr<prometheus::Collectable> engine_;
  std::unique_ptr<prometheus::Exposer> exposer_;
  int port_ = 0;
};

// As /metrics gives it; for tests.
std::string metrics_text(const Metrics& metrics, const prometheus::Collectable& engine);

}  // namespace kascade::server

#endif  // KASCADE_SERVER_METRICS_H_
