// What the server itself measures, under one name each; what the engine measures is in
// engine_collector.h. docs/operations.md describes every metric.
#ifndef KASCADE_SERVER_METRICS_METRICS_H_
#define KASCADE_SERVER_METRICS_METRICS_H_

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "prometheus/counter.h"
#include "prometheus/family.h"
#include "prometheus/gauge.h"
#include "prometheus/histogram.h"
#include "prometheus/registry.h"
#include "server/metrics/shadow_metrics.h"

namespace kascade::metrics {

struct ServerMetrics {
  ServerMetrics();

  // Counts a call of the method `rpc` that ended with `code` after so many seconds.
  void finish_rpc(const std::string& rpc, absl::StatusCode code, double seconds);
  // Counts a call that the server refused, by the reason of its ErrorInfo.
  void count_refusal(const std::string& reason);
  // Counts a calibration that ended: "passed", "not_passed", "failed" or "cancelled".
  void finish_calibration(const std::string& outcome);
  // When the certificate of the gRPC listener expires. Without TLS there is no sample.
  void set_certificate_expiry(absl::Time expiry);

  const std::shared_ptr<prometheus::Registry> registry;
  prometheus::Family<prometheus::Counter>& rpc_requests;    // {rpc, code}
  prometheus::Family<prometheus::Histogram>& rpc_duration;  // {rpc}
  prometheus::Gauge& rpc_in_flight;
  prometheus::Gauge& request_memory;                  // bytes, see server/core/memory_budget.h
  prometheus::Gauge& request_memory_limit;            // bytes
  prometheus::Family<prometheus::Counter>& refusals;  // {reason}
  prometheus::Histogram& time_to_first_token;
  prometheus::Histogram& inter_token_latency;
  prometheus::Histogram& queue_time;
  prometheus::Histogram& prefill_time;
  prometheus::Histogram& request_prompt_tokens;
  prometheus::Histogram& request_generated_tokens;
  prometheus::Family<prometheus::Counter>& calibrations;  // {outcome}
  prometheus::Gauge& calibration_progress;                // of the stage that runs
  ShadowMetrics shadow;
};

}  // namespace kascade::metrics

#endif  // KASCADE_SERVER_METRICS_METRICS_H_
