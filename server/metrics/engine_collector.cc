#include "server/metrics/engine_collector.h"

#include <chrono>
#include <utility>
#include <vector>

namespace kascade::metrics {
namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;
using prometheus::MetricType;

ClientMetric sample(MetricType type, double value, std::vector<ClientMetric::Label> labels) {
  ClientMetric metric;
  metric.label = std::move(labels);
  (type == MetricType::Counter ? metric.counter.value : metric.gauge.value) = value;
  return metric;
}

MetricFamily family(MetricType type, const char* name, const char* help) {
  MetricFamily out;
  out.name = name;
  out.help = help;
  out.type = type;
  return out;
}

MetricFamily single(MetricType type, const char* name, const char* help, double value) {
  MetricFamily out = family(type, name, help);
  out.metric.push_back(sample(type, value, {}));
  return out;
}

MetricFamily counter(const char* name, const char* help, int64_t value) {
  return single(MetricType::Counter, name, help, static_cast<double>(value));
}

MetricFamily gauge(const char* name, const char* help, double value) {
  return single(MetricType::Gauge, name, help, value);
}

MetricFamily by_role(const char* name, const char* help, const int64_t (&values)[kLayerKinds]) {
  MetricFamily out = family(MetricType::Counter, name, help);
  for (const LayerKind role :
       {LayerKind::kDense, LayerKind::kSelecting, LayerKind::kReusing, LayerKind::kWindow}) {
    out.metric.push_back(sample(MetricType::Counter,
                                static_cast<double>(values[static_cast<size_t>(role)]),
                                {{"layer_role", std::string(name_of(role))}}));
  }
  return out;
}

MetricFamily schedule_info(const Engine& engine) {
  MetricFamily out = family(MetricType::Gauge, "kascade_schedule_info",
                            "1 for the active schedule; absent when none is.");
  if (const auto schedule = engine.active_schedule()) {
    const int32_t selecting = schedule->count(Role::kDense) + schedule->count(Role::kAnchor);
    out.metric.push_back(sample(MetricType::Gauge, 1,
                                {{"schedule_id", schedule->schedule_id},
                                 {"family", std::string(name_of(schedule->selection.family))},
                                 {"anchors", std::to_string(selecting)}}));
  }
  return out;
}

MetricFamily model_info(const Engine& engine) {
  MetricFamily out = family(MetricType::Gauge, "kascade_model_info", "1; the model as labels.");
  out.metric.push_back(sample(MetricType::Gauge, 1,
                              {{"model", engine.model().name},
                               {"backend", engine.info().backend},
                               {"weights", std::string(name_of(engine.info().weights))}}));
  return out;
}

void add_queue(const EngineStats& stats, std::vector<MetricFamily>& out) {
  MetricFamily waiting =
      family(MetricType::Gauge, "kascade_requests_waiting", "Sequences in the queue, by class.");
  MetricFamily tokens = family(MetricType::Gauge, "kascade_waiting_tokens",
                               "Tokens of the sequences in the queue, by class.");
  for (const Priority priority : kEveryPriority) {
    const ClassStats& queue = stats.classes[static_cast<size_t>(priority)];
    const std::vector<ClientMetric::Label> labels{{"priority", std::string(name_of(priority))}};
    waiting.metric.push_back(sample(MetricType::Gauge, queue.waiting, labels));
    tokens.metric.push_back(
        sample(MetricType::Gauge, static_cast<double>(queue.waiting_tokens), labels));
  }
  out.push_back(std::move(waiting));
  out.push_back(std::move(tokens));
  out.push_back(gauge("kascade_predicted_wait_seconds",
                      "Predicted wait of an interactive request that arrives now.",
                      stats.predicted_wait_seconds));
}

void add_load(const EngineStats& stats, std::vector<MetricFamily>& out) {
  const int32_t used = stats.total_blocks - stats.free_blocks;
  out.push_back(gauge("kascade_requests_running", "Sequences that are computed.", stats.running));
  add_queue(stats, out);
  out.push_back(gauge("kascade_kv_blocks", "Blocks of the KV cache.", stats.total_blocks));
  out.push_back(gauge("kascade_kv_block_tokens", "Tokens of a block.", stats.block_size));
  out.push_back(gauge("kascade_kv_blocks_used_ratio",
                      "Used share of the KV cache's blocks, 0 to 1.",
                      stats.total_blocks > 0 ? static_cast<double>(used) / stats.total_blocks : 0));
  out.push_back(gauge("kascade_last_step_seconds", "Duration of the last step.",
                      absl::ToDoubleSeconds(stats.last_step)));
}

MetricFamily seconds(const char* name, const char* help, double value) {
  return single(MetricType::Counter, name, help, value);
}

double seconds_of(std::chrono::nanoseconds time) {
  return std::chrono::duration<double>(time).count();
}

void add_step_times(const EngineStats& stats, std::vector<MetricFamily>& out) {
  out.push_back(seconds("kascade_all_step_seconds_total", "Duration of all steps.",
                        absl::ToDoubleSeconds(stats.step_time)));
  out.push_back(seconds("kascade_selection_seconds_total",
                        "The part of it in which keys were scored and chosen.",
                        seconds_of(stats.attention_times.selection)));
  out.push_back(seconds("kascade_attention_seconds_total",
                        "The part of it in which rows attended to keys.",
                        seconds_of(stats.attention_times.attention)));
  out.push_back(seconds("kascade_step_seconds_total",
                        "Duration of the steps whose duration was predicted.",
                        stats.measured_step_seconds));
  out.push_back(seconds("kascade_step_predicted_seconds_total",
                        "What was predicted for these steps.", stats.predicted_step_seconds));
  out.push_back(seconds("kascade_step_prediction_error_seconds_total",
                        "What the predictions were off by, without the sign.",
                        stats.step_prediction_error_seconds));
}

void add_totals(const EngineStats& stats, std::vector<MetricFamily>& out) {
  out.push_back(counter("kascade_steps_total", "Steps of the engine.", stats.steps));
  out.push_back(
      counter("kascade_rows_total", "Tokens computed, recomputation included.", stats.rows));
  out.push_back(
      counter("kascade_prompt_tokens_total", "Prompt tokens of generations.", stats.prompt_tokens));
  out.push_back(
      counter("kascade_generated_tokens_total", "Generated tokens.", stats.generated_tokens));
  out.push_back(counter("kascade_scored_tokens_total", "Scored tokens.", stats.scored_tokens));
  out.push_back(counter("kascade_preemptions_total",
                        "Sequences that lost their blocks and are computed again.",
                        stats.preemptions));
  out.push_back(by_role("kascade_attention_keys_attended_total",
                        "Keys attended to, by the layer's role.", stats.keys_attended));
  out.push_back(by_role("kascade_attention_keys_scored_total",
                        "Keys scored for a selection, by the layer's role.", stats.keys_scored));
  out.push_back(counter("kascade_attention_keys_causal_total",
                        "Keys that dense attention would have attended to.", stats.keys_causal));
  out.push_back(counter("kascade_sparse_rows_computed_dense_total",
                        "Rows of sparse requests that attended to all keys, since they stand below "
                        "the schedule's dense_below.",
                        stats.dense_rows_of_sparse));
}

}  // namespace

std::vector<MetricFamily> EngineCollector::Collect() const {
  const EngineStats stats = engine_.stats();
  std::vector<MetricFamily> out;
  add_load(stats, out);
  add_totals(stats, out);
  add_step_times(stats, out);
  out.push_back(schedule_info(engine_));
  out.push_back(model_info(engine_));
  return out;
}

}  // namespace kascade::metrics
