// What a request to the engine asks and what comes back: tokens and numbers. Text and wire types
// stay outside.
#ifndef KASCADE_ENGINE_REQUEST_H_
#define KASCADE_ENGINE_REQUEST_H_

#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "engine/attention/choice.h"
#include "engine/attention/key_counts.h"
#include "engine/base/types.h"
#include "engine/model/config.h"
#include "engine/sampling/parameters.h"
#include "engine/sampling/scored_token.h"

namespace kascade {

class LayerObserver;

// Which queries decide the keys of a scored token (docs/method.md, "Selection granularity"): its
// own query alone, as in decoding (strictly causal, equal to Generate), or all queries of its tile
// together, as in prefill (later tokens of the tile take part: optimistic for a perplexity).
enum class SelectionGranularity { kPerQuery, kPerTile };

struct Score {
  int32_t first_scored = 1;  // tokens[first_scored …] are scored; those before are context; ≥ 1
  SelectionGranularity granularity = SelectionGranularity::kPerQuery;
  bool want_ranks = false;
  int32_t top_logprobs = 0;
};

// Runs the tokens, watched by an observer, and gives no logits. The last token is not fed.
struct Observe {
  std::shared_ptr<LayerObserver> observer{};  // not null; called on the engine's thread
  // Rows from this position on select their keys per query, those before it per tile; ≥ 0.
  int32_t per_query_from = std::numeric_limits<int32_t>::max();
};

struct Request {
  std::vector<Token> tokens{};  // the prompt, or the text to score or to observe; not empty
  std::variant<Generate, Score, Observe> task{};
  AttentionChoice attention{};
  // Score only: the same tokens run a second time under this choice, in lockstep with the first run
  // and with a KV cache of their own, and every scored position is compared.
  std::optional<AttentionChoice> compared_with{};
  absl::Time deadline = absl::InfiniteFuture();

  int32_t runs() const { return compared_with ? 2 : 1; }
};

// What a request must fit.
struct ModelLimits {
  int32_t vocab = 0;
  int32_t context = 0;  // tokens
  int32_t layers = 0;
  std::optional<int32_t> sliding_window{};  // keys, fewer than `context`; the model's own
};
inline ModelLimits limits_of(const ModelConfig& model) {
  return {.vocab = model.vocab,
          .context = model.context,
          .layers = model.layers,
          .sliding_window = model.sliding_window};
}

inline constexpr int64_t kMaxLogitBiases = 1024;
inline constexpr int64_t kMaxStopTokens =
    512;  // a client's 256, and those of model and chat format
inline constexpr int32_t kMaxTopLogprobs = 20;
inline constexpr int32_t kMaxBaselineKeys = 1 << 20;
inline constexpr int32_t kMaxPageSize = 128;  // a query tile is whole pages

// All that a request must fulfil, checked nowhere else. INVALID_ARGUMENT "field.path: must be in
// [a, b], got v" with a Refusal (engine/base/refusal.h); paths are those of the structs here, with
// "attention.schedule" and "attention.baseline" for the alternatives of a choice.
// FAILED_PRECONDITION: a ScheduledAttention without a schedule, since none is active.
// In a model with a sliding window, sparse attention and observers are for requests that fit into
// the window.
absl::Status validate(const Request& request, const ModelLimits& model);
// What the engine computes for a valid request: the attention of each of its runs. It is the one
// that the request chose, except that dense attention in a request that outgrows the model's
// sliding window is attention within this window.
std::vector<AttentionChoice> computed_attention(const Request& request, const ModelLimits& model);
// Of the same kind, naming "field[i]", with the reason UNKNOWN_TOKEN.
absl::Status check_tokens(const std::string& field, std::span<const Token> tokens, int32_t vocab);

enum class FinishReason {
  kStopToken,      // a stop token was generated (it is the last token of the events)
  kMaxTokens,      // max_new_tokens reached
  kContextLength,  // the model's context is full
  kCompleted,      // a Score or an Observe is done
  kCancelled,
  kDeadline,
  kError,
};

struct Finish {
  FinishReason reason = FinishReason::kCompleted;
  absl::Status status{};                  // OK unless kError, kDeadline or kCancelled
  std::vector<AttentionCounts> counts{};  // [runs of the request]; empty if it never ran
  absl::Duration queued{};                // from admission to the first step
  absl::Duration prefill{};               // from the first step to the end of the prompt
};

// Progress of one sequence after one step. `tokens` are the generated or scored tokens of this
// step, in order; `comparisons` has as many entries if the request compares, else none.
struct Event {
  SeqId seq = 0;
  std::vector<ScoredToken> tokens{};
  std::vector<TokenComparison> comparisons{};
  int32_t computed_tokens = 0;  // tokens whose keys and values are in the cache
  std::optional<Finish> finish{};
};

// Called on the engine's thread, in order, the last time with `finish`; must not block.
using EventSink = std::function<void(const Event&)>;

}  // namespace kascade

#endif  // KASCADE_ENGINE_REQUEST_H_
