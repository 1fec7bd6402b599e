// The vocabulary of the engine's public door: what a request asks and what comes back. Everything
// here is tokens and numbers; text and wire types stay outside.
#ifndef KASCADE_ENGINE_TYPES_H_
#define KASCADE_ENGINE_TYPES_H_

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace kascade {

using Token = int32_t;
using SeqId = uint64_t;

// How the next token is drawn from a row of logits. Order of application: logit_bias, penalties,
// min_new_tokens (bans the stop tokens), then temperature, top_k, top_p, min_p. Reported
// log-probabilities are those of the model, before all of this.
struct Sampling {
  double temperature = 1.0;         // ≥ 0; 0 = greedy (arg-max, ties → lowest id)
  int32_t top_k = 0;                // 0 = all
  double top_p = 1.0;               // (0, 1]
  double min_p = 0.0;               // [0, 1]: drops p < min_p · p_max
  double repetition_penalty = 1.0;  // > 0; divides positive, multiplies negative logits of seen ids
  double presence_penalty = 0.0;    // [-2, 2]; over generated tokens
  double frequency_penalty = 0.0;   // [-2, 2]; over generated tokens, per occurrence
  uint64_t seed = 0;
  std::vector<std::pair<Token, float>> logit_bias{};  // added to the logit; [-100, 100]
};

struct Generate {
  Sampling sampling{};
  int32_t max_new_tokens = 256;  // ≥ 1
  int32_t min_new_tokens = 0;    // stop tokens are banned before this many were generated
  std::vector<Token> stop_tokens{};
  bool want_logprobs = false;
  int32_t top_logprobs = 0;  // 0–20 candidates with each token
};

// Which rule decides the keys of a scored token (method, A2.6): its own row alone (causal; equal to
// Generate), or all rows of its query tile (the prefill rule; optimistic).
enum class Phase { kRow, kTile };

struct Score {
  int32_t first_scored = 1;  // tokens[first_scored …] are scored; those before are context; ≥ 1
  Phase phase = Phase::kRow;
  bool want_ranks = false;
  int32_t top_logprobs = 0;
};

enum class Mode { kDense, kSparse, kCompare };

// Published ways to attend sparsely without a schedule, for comparisons. Of `layers` all but
// dense_layers attend by them, all query tiles of 32 positions (or whole pages) as Kascade's.
enum class BaselineKind {
  kOracle,     // each layer's own best keys, by the exact probabilities of all
  kStreaming,  // StreamingLLM: the first and the newest keys
  kQuest,      // pages of keys by bounds on q·k
};

struct Baseline {
  BaselineKind kind = BaselineKind::kOracle;
  double ratio = 0.1;      // share of the keys before the row's tile that is attended to, (0, 1]
  int32_t min_keys = 128;  // at least so many; ≥ 0
  int32_t sink_keys = 0;   // first keys: oracle on top, streaming within the share; 0 for Quest
  int32_t page_size = 16;  // Quest: keys, [1, 128]
  std::vector<int32_t> dense_layers{0};
  auto operator<=>(const Baseline&) const = default;

  // As published, where that has an equal here.
  static Baseline defaults(BaselineKind kind) {
    Baseline baseline{.kind = kind};
    if (kind == BaselineKind::kStreaming) baseline.sink_keys = 4;
    if (kind == BaselineKind::kQuest) baseline.dense_layers = {0, 1};
    return baseline;
  }
};

// Belongs to the sequence: one step mixes dense and sparse sequences.
struct Attention {
  std::optional<Mode> mode{};     // unset: sparse with a baseline or an active schedule, else dense
  std::optional<double> ratio{};  // (0, 1]; overrides the schedule's (kascade family only)
  std::optional<Baseline> baseline{};  // sparse is this, not the schedule; not with `ratio`

  // With the mode resolved.
  bool uses_schedule() const { return mode.value_or(Mode::kDense) != Mode::kDense && !baseline; }
};

struct Request {
  std::vector<Token> tokens{};  // the prompt, or the text to score; not empty
  std::variant<Generate, Score> task{};
  Attention attention{};
  absl::Time deadline = absl::InfiniteFuture();
};

struct Candidate {
  Token token = 0;
  float logprob = 0;  // natural log
};

struct ScoredToken {
  Token token = 0;
  // Natural log, by f32 log-softmax over the whole vocabulary; NaN if a Generate did not ask.
  float logprob = 0;
  int32_t rank = 0;  // 1 = most likely; 0 = not asked for
  bool is_top1 = false;
  std::vector<Candidate> top{};  // most likely first
};

// Compare only: what one position gives when run sparse beside the dense run.
struct Comparison {
  ScoredToken sparse{};  // without candidates
  float kl = 0;          // KL(dense ‖ sparse), nats
  bool same_top1 = false;
};

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

enum class FinishReason {
  kStopToken,      // a stop token was generated (it is the last token of the events)
  kMaxTokens,      // max_new_tokens reached
  kContextLength,  // the model's context is full
  kCompleted,      // a Score is done
  kCancelled,
  kDeadline,
  kError,
};

struct Finish {
  FinishReason reason = FinishReason::kCompleted;
  absl::Status status{};  // OK unless kError, kDeadline or kCancelled
  AttentionCounts counts{};
  std::string schedule_id{};  // of the schedule used; empty when dense
  Mode mode = Mode::kDense;   // that was used
  absl::Duration queued{};
  absl::Duration prefill{};
};

// Progress of one sequence after one step. `tokens` are the generated or scored tokens of this
// step, in order; `comparisons` runs parallel to it (compare only).
struct Event {
  SeqId seq = 0;
  std::vector<ScoredToken> tokens{};
  std::vector<Comparison> comparisons{};
  int32_t computed_tokens = 0;  // tokens whose keys and values are in the cache
  std::optional<Finish> finish{};
};

// Called on the engine's thread, in order, the last time with `finish`; must not block.
using EventSink = std::function<void(const Event&)>;

}  // namespace kascade

#endif  // KASCADE_ENGINE_TYPES_H_
