// Counts of the keys that attention reads, and the time that this takes.
#ifndef KASCADE_ENGINE_ATTENTION_KEY_COUNTS_H_
#define KASCADE_ENGINE_ATTENTION_KEY_COUNTS_H_

#include <chrono>
#include <cstdint>

namespace kascade {

// Consecutive positions that share one selection of keys. With per-query selection this is a single
// position.
struct TileSpan {
  int32_t first = 0;
  int32_t last = 0;  // inclusive
  bool per_query = false;
};

// Keys per KV head that the rows of a tile read in one layer, summed over the rows (docs/method.md,
// "Keys and bytes read").
struct KeysRead {
  int64_t causal = 0;    // keys that dense attention attends to
  int64_t attended = 0;  // keys that the softmax runs over
  int64_t scored = 0;    // keys read to select
  // Rows of K and of V that are read from the cache; a row is counted once per position.
  int64_t kv_rows = 0;
  int64_t int4_keys = 0;  // of the keys scored, those of which the 4-bit copy is read

  KeysRead& operator+=(const KeysRead& other) {
    causal += other.causal;
    attended += other.attended;
    scored += other.scored;
    kv_rows += other.kv_rows;
    int4_keys += other.int4_keys;
    return *this;
  }
};

// The counts of a layer that attends to all causal keys.
KeysRead all_keys_read(const TileSpan& tile);

// Keys per KV head, summed over layers, KV heads and positions (docs/method.md, "Keys and bytes
// read").
struct AttentionCounts {
  int64_t causal = 0;  // keys that dense attention attends to
  int64_t attended = 0;
  int64_t scored = 0;  // keys read by selecting layers to select
  // A row of K or V, or the 4-bit copy of a key, counts once per position, KV head and layer.
  int64_t kv_bytes_read = 0;
  int64_t dense_kv_bytes_read = 0;
  int64_t positions = 0;
  int64_t dense_positions = 0;  // of them, those with AttentionPolicy::attends_to_all()

  // Adds all figures but the positions. A row of K or V has `row_bytes`, the copy of a key
  // `int4_key_bytes`.
  void add(const KeysRead& keys, int64_t row_bytes, int64_t int4_key_bytes) {
    causal += keys.causal;
    attended += keys.attended;
    scored += keys.scored;
    kv_bytes_read += keys.kv_rows * row_bytes + keys.int4_keys * int4_key_bytes;
    dense_kv_bytes_read += 2 * keys.causal * row_bytes;
  }
  void add_positions(int32_t rows, int32_t dense_rows) {
    positions += rows;
    dense_positions += dense_rows;
  }
  AttentionCounts& operator+=(const AttentionCounts& other) {
    causal += other.causal;
    attended += other.attended;
    scored += other.scored;
    kv_bytes_read += other.kv_bytes_read;
    dense_kv_bytes_read += other.dense_kv_bytes_read;
    positions += other.positions;
    dense_positions += other.dense_positions;
    return *this;
  }
};

// How long parts of steps took. The host waits for the end of each part.
struct AttentionTimes {
  std::chrono::nanoseconds selection{};  // scoring keys and choosing among them
  std::chrono::nanoseconds attention{};  // attending to the chosen keys, or to all
};

}  // namespace kascade

#endif  // KASCADE_ENGINE_ATTENTION_KEY_COUNTS_H_
