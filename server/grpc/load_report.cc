#include "server/grpc/load_report.h"

#include <algorithm>
#include <cstdint>

#include "xds/data/orca/v3/orca_load_report.pb.h"

namespace kascade::server {
namespace {

double share(int64_t part, int64_t whole) {
  return whole > 0 ? static_cast<double>(part) / static_cast<double>(whole) : 0;
}

}  // namespace

std::string load_report(const core::ServerContext& context) {
  const EngineStats stats = context.engine.stats();
  const double cache = share(stats.total_blocks - stats.free_blocks, stats.total_blocks);
  const double places = share(stats.running + stats.waiting, context.limits.max_sequences);
  xds::data::orca::v3::OrcaLoadReport report;
  report.set_application_utilization(std::max(cache, places));
  auto& utilization = *report.mutable_utilization();
  utilization["kv_cache"] = cache;
  utilization["request_memory"] = share(context.memory.used(), context.memory.limit());
  auto& metrics = *report.mutable_named_metrics();
  metrics["running"] = stats.running;
  metrics["waiting"] = stats.waiting;
  return report.SerializeAsString();
}

}  // namespace kascade::server
