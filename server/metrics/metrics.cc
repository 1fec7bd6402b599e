#include "server/metrics/metrics.h"

#include "tools/version/version.h"

namespace kascade::metrics {
namespace {

using Buckets = prometheus::Histogram::BucketBoundaries;

// The tails reach far: a long prompt on a CPU takes minutes.
const Buckets& latency_buckets() {
  static const Buckets buckets{.001, .005, .01, .02, .04, .06, .08, .1, .25, .5,  .75,
                               1,    2.5,  5,   7.5, 10,  20,  40,  80, 160, 640, 2560};
  return buckets;
}

const Buckets& interval_buckets() {
  static const Buckets buckets{.001, .0025, .005, .01, .025, .05, .075, .1, .15, .2, .3,  .4,
                               .5,   .75,   1,    2.5, 5,    7.5, 10,   20, 40,  80, 640, 2560};
  return buckets;
}

const Buckets& token_buckets() {
  static const Buckets buckets{1,    2,    5,    10,    20,    50,    100,    200,   500,
                               1000, 2000, 5000, 10000, 20000, 50000, 100000, 200000};
  return buckets;
}

prometheus::Histogram& histogram(prometheus::Registry& registry, const char* name, const char* help,
                                 const Buckets& buckets) {
  return prometheus::BuildHistogram().Name(name).Help(help).Register(registry).Add({}, buckets);
}

prometheus::Family<prometheus::Counter>& counters(prometheus::Registry& registry, const char* name,
                                                  const char* help) {
  return prometheus::BuildCounter().Name(name).Help(help).Register(registry);
}

prometheus::Gauge& gauge(prometheus::Registry& registry, const char* name, const char* help) {
  return prometheus::BuildGauge().Name(name).Help(help).Register(registry).Add({});
}

void add_build_info(prometheus::Registry& registry) {
  prometheus::BuildGauge()
      .Name("kascade_build_info")
      .Help("1; the version and the commit are labels.")
      .Register(registry)
      .Add({{"version", version()}, {"commit", commit_hash()}})
      .Set(1);
}

}  // namespace

ServerMetrics::ServerMetrics()
    : registry(std::make_shared<prometheus::Registry>()),
      rpc_requests(counters(*registry, "kascade_rpc_requests_total",
                            "Calls that ended, by method and gRPC status code.")),
      rpc_duration(prometheus::BuildHistogram()
                       .Name("kascade_request_duration_seconds")
                       .Help("Arrival to end of a call, by method.")
                       .Register(*registry)),
      rpc_in_flight(gauge(*registry, "kascade_rpc_in_flight", "Calls that have not ended.")),
      request_memory(gauge(*registry, "kascade_request_memory_bytes",
                           "Memory that is reserved for live requests.")),
      request_memory_limit(gauge(*registry, "kascade_request_memory_limit_bytes",
                                 "Memory that live requests may reserve together.")),
      refusals(counters(*registry, "kascade_refusals_total",
                        "Calls that the server refused, by reason.")),
      time_to_first_token(histogram(*registry, "kascade_time_to_first_token_seconds",
                                    "Arrival of a Generate call to its first token.",
                                    latency_buckets())),
      inter_token_latency(histogram(*registry, "kascade_inter_token_latency_seconds",
                                    "Time between two tokens of a generation.",
                                    interval_buckets())),
      queue_time(histogram(*registry, "kascade_request_queue_seconds",
                           "Time that a sequence waited for its first step.", latency_buckets())),
      prefill_time(histogram(*registry, "kascade_request_prefill_seconds",
                             "Time that a generation's prompt took.", latency_buckets())),
      request_prompt_tokens(histogram(*registry, "kascade_request_prompt_tokens",
                                      "Tokens of a generation's prompt.", token_buckets())),
      request_generated_tokens(histogram(*registry, "kascade_request_generated_tokens",
                                         "Tokens that a generation gave.", token_buckets())),
      calibrations(counters(*registry, "kascade_calibrations_total",
                            "Calibrations that ended, by outcome.")),
      calibration_progress(gauge(*registry, "kascade_calibration_progress_ratio",
                                 "Done share of the stage of the running calibration; 0 when none "
                                 "is running.")),
      shadow(*registry) {
  add_build_info(*registry);
}

void ServerMetrics::finish_rpc(const std::string& rpc, absl::StatusCode code, double seconds) {
  const std::string name = absl::StatusCodeToString(code);
  rpc_requests.Add({{"rpc", rpc}, {"code", name.empty() ? "UNKNOWN" : name}}).Increment();
  rpc_duration.Add({{"rpc", rpc}}, latency_buckets()).Observe(seconds);
}

void ServerMetrics::count_refusal(const std::string& reason) {
  refusals.Add({{"reason", reason}}).Increment();
}

void ServerMetrics::finish_calibration(const std::string& outcome) {
  calibrations.Add({{"outcome", outcome}}).Increment();
  calibration_progress.Set(0);
}

void ServerMetrics::set_certificate_expiry(absl::Time expiry) {
  // Registering it again gives the same gauge.
  gauge(*registry, "kascade_tls_certificate_expiry_timestamp_seconds",
        "When the certificate of the gRPC listener expires, in seconds since 1970; no sample "
        "without TLS.")
      .Set(static_cast<double>(absl::ToUnixSeconds(expiry)));
}

}  // namespace kascade::metrics
