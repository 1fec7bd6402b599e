#include "server/metrics/state_collector.h"

#include <array>
#include <cstdint>
#include <string>

namespace kascade::metrics {
namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;
using prometheus::MetricType;

MetricFamily single(MetricType type, const char* name, const char* help, int64_t value) {
  ClientMetric sample;
  (type == MetricType::Counter ? sample.counter.value : sample.gauge.value) =
      static_cast<double>(value);
  MetricFamily out;
  out.name = name;
  out.help = help;
  out.type = type;
  out.metric.push_back(sample);
  return out;
}

// A counter with one sample for each reason, counted or not.
template <typename Reason, size_t kReasons>
MetricFamily by_reason(const char* name, const char* help,
                       const std::array<int64_t, kReasons>& values) {
  MetricFamily out;
  out.name = name;
  out.help = help;
  out.type = MetricType::Counter;
  for (size_t i = 0; i < kReasons; ++i) {
    ClientMetric sample;
    sample.label = {{"reason", std::string(net::name_of(static_cast<Reason>(i)))}};
    sample.counter.value = static_cast<double>(values[i]);
    out.metric.push_back(sample);
  }
  return out;
}

}  // namespace

std::vector<MetricFamily> StateCollector::Collect() const {
  const net::ConnectionCounts counts = connections_.counts();
  return {single(MetricType::Gauge, "kascade_connections", "Open connections of gRPC clients.",
                 counts.open),
          single(MetricType::Counter, "kascade_connections_accepted_total",
                 "Connections of gRPC clients that were accepted.", counts.accepted),
          by_reason<net::RefusalReason>("kascade_connections_refused_total",
                                        "New connections that were closed at once, by reason.",
                                        counts.refused),
          by_reason<net::ClosureReason>("kascade_connections_closed_total",
                                        "Accepted connections that the server closed, by reason.",
                                        counts.closed),
          single(MetricType::Gauge, "kascade_engine_stalled",
                 "1 while the engine has work but makes no progress, else 0.",
                 engine_stalled_() ? 1 : 0)};
}

}  // namespace kascade::metrics
