#include "tests/bench/work.h"

#include <algorithm>

#include "engine/backend/int4_keys.h"

namespace kascade::bench {
namespace {

KeysRead count_rows(const AttentionPolicy& policy, int32_t layer, const RowRun& run) {
  const int32_t end = run.first + run.count;
  const int32_t tile = run.per_query ? 1 : policy.tiling().query_tile;
  KeysRead sum;
  for (int32_t first = run.first; first < end;) {
    const int32_t next = std::min(end, (first / tile + 1) * tile);
    sum += policy.keys_read(layer, {first, next - 1, run.per_query});
    first = next;
  }
  return sum;
}

}  // namespace

double matmul_flops_per_row(const ModelConfig& config) {
  const double hidden = config.hidden;
  const double weights =
      hidden * (2.0 * config.q_dim() + 2.0 * config.kv_dim()) + 3.0 * hidden * config.intermediate;
  return 2 * weights * config.layers;
}

StepWork step_work(const ModelConfig& config, const AttentionPolicy& policy,
                   std::span<const RowRun> runs, double weight_bytes, double kv_element_bytes) {
  StepWork work{.weight_bytes = weight_bytes};
  const double kv_row_bytes = kv_element_bytes * config.kv_dim();
  const auto copy_bytes = static_cast<double>(int4_key_bytes(config.head_dim) * config.kv_heads);
  for (const RowRun& run : runs) {
    work.matmul_flops += run.count * matmul_flops_per_row(config);
    work.head_flops += 2.0 * config.hidden * config.vocab;
    for (int32_t layer = 0; layer < config.layers; ++layer) {
      const KeysRead keys = count_rows(policy, layer, run);
      work.attention_flops += 4.0 * config.q_dim() * static_cast<double>(keys.attended);
      work.scoring_flops += 2.0 * config.q_dim() * static_cast<double>(keys.scored);
      // No row of a chunk reads more than its last one, and that much cannot be avoided.
      const int32_t last = run.first + run.count - 1;
      const KeysRead read = run.per_query ? keys : policy.keys_read(layer, {last, last, false});
      work.kv_bytes += kv_row_bytes * static_cast<double>(read.kv_rows) +
                       copy_bytes * static_cast<double>(read.int4_keys);
    }
  }
  return work;
}

double floor_seconds(const StepWork& work, const Speeds& speeds) {
  const double computing = (work.matmul_flops + work.head_flops) / speeds.matmul +
                           (work.attention_flops + work.scoring_flops) / speeds.attention;
  return std::max(computing, work.bytes() / speeds.read);
}

}  // namespace kascade::bench
