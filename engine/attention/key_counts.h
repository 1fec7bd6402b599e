// How many keys attention read.
#ifndef KASCADE_ENGINE_ATTENTION_KEY_COUNTS_H_
#define KASCADE_ENGINE_ATTENTION_KEY_COUNTS_H_

#include <cstdint>

namespace kascade {

// Keys per KV head, summed over layers, KV heads and positions (method, A6).
struct AttentionCounts {
  int64_t causal = 0;  // what dense attention attends to
  int64_t attended = 0;
  int64_t scored = 0;         // by anchors and other selecting layers
  int64_t kv_bytes_read = 0;  // row rule: each K or V row once per KV head and layer
  int64_t dense_kv_bytes_read = 0;
  int64_t positions = 0;

  AttentionCounts& operator+=(const AttentionCounts& other) {
    causal += other.causal;
    attended += other.attended;
    scored += other.scored;
    kv_bytes_read += other.kv_bytes_read;
    dense_kv_bytes_read += other.dense_kv_bytes_read;
    positions += other.positions;
    return *this;
  }
};

}  // namespace kascade

#endif  // KASCADE_ENGINE_ATTENTION_KEY_COUNTS_H_
