#include "server/metrics.h"

#include <array>
#include <exception>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "prometheus/text_serializer.h"

namespace kascade::server {
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

prometheus::Gauge& gauge(prometheus::Registry& registry, const char* name, const char* help) {
  return prometheus::BuildGauge().Name(name).Help(help).Register(registry).Add({});
}

const char* name_of_code(grpc::StatusCode code) {
  static constexpr std::array<const char*, 17> names{"OK",
                                                     "CANCELLED",
                                                     "UNKNOWN",
                                                     "INVALID_ARGUMENT",
                                                     "DEADLINE_EXCEEDED",
                                                     "NOT_FOUND",
                                                     "ALREADY_EXISTS",
                                                     "PERMISSION_DENIED",
                                                     "RESOURCE_EXHAUSTED",
                                                     "FAILED_PRECONDITION",
                                                     "ABORTED",
                                                     "OUT_OF_RANGE",
                                                     "UNIMPLEMENTED",
                                                     "INTERNAL",
                                                     "UNAVAILABLE",
                                                     "DATA_LOSS",
                                                     "UNAUTHENTICATED"};
  const auto index = static_cast<size_t>(code);
  return index < names.size() ? names[index] : "UNKNOWN";
}

}  // namespace

Metrics::Metrics()
    : registry(std::make_shared<prometheus::Registry>()),
      rpc_requests(prometheus::BuildCounter()
                       .Name("kascade_rpc_requests_total")
                       .Help("Calls that ended, by method and gRPC status code.")
                       .Register(*registry)),
      rpc_duration(prometheus::BuildHistogram()
                       .Name("kascade_request_duration_seconds")
                       .Help("Arrival to end of a call, by method.")
                       .Register(*registry)),
      rpc_in_flight(gauge(*registry, "kascade_rpc_in_flight", "Calls that have not ended.")),
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
      calibrations(prometheus::BuildCounter()
                       .Name("kascade_calibrations_total")
                       .Help("Calibrations that ended, by outcome.")
                       .Register(*registry)),
      calibration_progress(gauge(*registry, "kascade_calibration_progress_ratio",
                                 "Done share of the stage of the running calibration; 0 when none "
                                 "is running.")) {
  prometheus::BuildGauge()
      .Name("kascade_build_info")
      .Help("1; the version is a label.")
      .Register(*registry)
      .Add({{"version", KASCADE_VERSION}})
      .Set(1);
}

void Metrics::finish_rpc(const std::string& rpc, const grpc::Status& status, double seconds) {
  rpc_requests.Add({{"rpc", rpc}, {"code", name_of_code(status.error_code())}}).Increment();
  rpc_duration.Add({{"rpc", rpc}}, latency_buckets()).Observe(seconds);
}

void Metrics::finish_calibration(const std::string& outcome) {
  calibrations.Add({{"outcome", outcome}}).Increment();
  calibration_progress.Set(0);
}

absl::StatusOr<std::unique_ptr<MetricsListener>> MetricsListener::start(
    const std::string& address, const Metrics& metrics,
    std::shared_ptr<prometheus::Collectable> engine) {
  std::unique_ptr<MetricsListener> listener(new MetricsListener());
  listener->engine_ = std::move(engine);
  try {
    listener->exposer_ = std::make_unique<prometheus::Exposer>(address);
  } catch (const std::exception& error) {
    return absl::UnavailableError(
        absl::StrCat("cannot serve metrics on ", address, ": ", error.what()));
  }
  const std::vector<int> ports = listener->exposer_->GetListeningPorts();
  if (!ports.empty()) listener->port_ = ports.front();
  listener->exposer_->RegisterCollectable(metrics.registry);
  listener->exposer_->RegisterCollectable(listener->engine_);
  return listener;
}

std::string metrics_text(const Metrics& metrics, const prometheus::Collectable& engine) {
  const prometheus::TextSerializer serializer;
  return serializer.Serialize(metrics.registry->Collect()) + serializer.Serialize(engine.Collect());
}

}  // namespace kascade::server
