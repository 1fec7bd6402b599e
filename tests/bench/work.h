// How much a step must compute and read at least, from the model's shape, and how long that takes
// at the machine's ceilings. Pure.
#ifndef KASCADE_TESTS_BENCH_WORK_H_
#define KASCADE_TESTS_BENCH_WORK_H_

#include <cstdint>
#include <span>

#include "engine/attention/policy.h"
#include "engine/model/config.h"

namespace kascade::bench {

// Consecutive rows of one sequence in a step.
struct RowRun {
  int32_t first = 0;  // position
  int32_t count = 0;
  bool per_query = false;
};

// A multiply-add counts as two operations. Work that the rows of a step share (weights, the keys
// that all rows of a chunk read) counts once, however often it is really read.
struct StepWork {
  double matmul_flops = 0;     // of the layers' matrices
  double head_flops = 0;       // one row per run
  double attention_flops = 0;  // q·k and p·v of the attended keys
  double scoring_flops = 0;    // q·k of the scored keys
  double weight_bytes = 0;
  double kv_bytes = 0;

  double flops() const { return matmul_flops + head_flops + attention_flops + scoring_flops; }
  double bytes() const { return weight_bytes + kv_bytes; }
};

// Of the layers' matrices, for one row.
double matmul_flops_per_row(const ModelConfig& config);

// `weight_bytes` of all matrices as packed, `kv_element_bytes` of one cached value.
StepWork step_work(const ModelConfig& config, const AttentionPolicy& policy,
                   std::span<const RowRun> runs, double weight_bytes, double kv_element_bytes);

// Multiply-adds per second of the matrices and of attention, bytes read per second.
struct Speeds {
  double matmul = 0;
  double attention = 0;
  double read = 0;
};

// The longer of the time for all operations and the time for all bytes: they may overlap.
double floor_seconds(const StepWork& work, const Speeds& speeds);

}  // namespace kascade::bench

#endif  // KASCADE_TESTS_BENCH_WORK_H_
