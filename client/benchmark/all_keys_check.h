// Whether sparse attention that attends to all keys gives what dense attention gives, and how long
// a forward pass takes: a quick test of a server, a backend and a model.
#ifndef KASCADE_CLIENT_BENCHMARK_ALL_KEYS_CHECK_H_
#define KASCADE_CLIENT_BENCHMARK_ALL_KEYS_CHECK_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "client/benchmark/run_times.h"
#include "client/rpc/session.h"

namespace kascade::client {

struct AllKeysCheck {
  int64_t tokens = 0;              // compared
  double largest_difference = 0;   // of a token's log-probability, nats
  double tolerance = 0;            // the largest that is allowed, nats
  double keys_attended_ratio = 0;  // of all causal keys
  double reuse_layers_ratio = 0;   // layers whose keys another layer chose
  int32_t forward_tokens = 0;      // of a timed forward pass
  RunTimes dense{}, sparse{};      // of such a pass
  int64_t weight_bytes = 0;        // at the computed format
  int64_t kv_bytes_per_token = 0;

  bool passed() const {
    return keys_attended_ratio == 1 && largest_difference <= tolerance && tokens > 0;
  }
};

// The difference that another order of summation may make, nats, by the format of the weights.
double all_keys_tolerance(const std::string& weights_dtype);

// Makes a schedule with as few selecting layers as the model allows, scores the first 2,048 tokens
// of `text` dense and under this schedule with ratio 1, by per-query and by per-tile selection, and
// times forward passes of `forward_tokens` tokens, `runs` of each kind. The schedule that was
// active is restored.
absl::StatusOr<AllKeysCheck> check_all_keys(Session& session, const std::string& text,
                                            int32_t forward_tokens, int32_t runs);

}  // namespace kascade::client

#endif  // KASCADE_CLIENT_BENCHMARK_ALL_KEYS_CHECK_H_
