// One request inside the engine: the only record of its tokens, progress, blocks and attention. The
// scheduler owns it; the runtime attaches what it must remember beside it.
#ifndef KASCADE_ENGINE_SCHEDULER_SEQUENCE_H_
#define KASCADE_ENGINE_SCHEDULER_SEQUENCE_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/time/time.h"
#include "engine/base/types.h"
#include "engine/cache/blocks.h"

namespace kascade {

class AttentionPolicy;

enum class Priority { kInteractive, kBackground };  // background: calibration

// What the scheduler must know to admit a sequence. admit() CHECKs that it is well-formed: there is
// a token to feed (a text to score has at least two), a generator has room for one more token,
// max_tokens ≤ the model's context, query_tile in [1, 128], branches 1 or 2.
struct SequenceSpec {
  std::vector<Token> tokens{};  // prompt, or the text to score; moves to Sequence::tokens
  // [branches] what each branch attends to; the scheduler itself does not look at them.
  std::vector<std::shared_ptr<const AttentionPolicy>> policies{};
  bool generates = false;  // appends one token per step after the prompt
  int32_t max_tokens = 0;  // prompt + generated, at most; = tokens.size() when scoring
  // Rows that are fed from tokens[0, prefill_end) select keys per tile, and chunks of them end at
  // tile borders; rows from prefill_end on select per query.
  int32_t prefill_end = 0;
  int32_t query_tile = 32;  // positions
  // Most rows of one step that select per query, over all sequences that set a limit; 0 = no limit.
  // Bounds the memory of the selection. A sequence with a single such row to feed is exempt
  // (decoding).
  int32_t max_per_query_rows = 0;
  int32_t first_logit = 0;  // scoring: logits are wanted of rows from this position on
  int32_t branches = 1;     // 2: a comparison's two runs in lockstep, each with its own cache
  Priority priority = Priority::kInteractive;
  absl::Time deadline = absl::InfiniteFuture();
};

// What the runtime remembers of a sequence; the scheduler only keeps it.
class SequenceAttachment {
 public:
  virtual ~SequenceAttachment() = default;
};

struct Sequence {
  SeqId id = 0;
  SequenceSpec spec;
  std::unique_ptr<SequenceAttachment> attachment{};
  std::vector<Token> tokens{};  // grows when generating
  int32_t computed = 0;         // tokens whose keys and values are in the cache (all branches)
  int32_t delivered = 0;  // rows below were booked once; differs from computed after preemption
  std::vector<BlockTable> tables{};  // [branches] while running, else empty
  uint64_t order = 0;                // of admission; a preempted sequence keeps it

  bool running() const { return !tables.empty(); }

  // Tokens that a step has yet to feed: a text's last token is never fed, a generator's is.
  int32_t feed_end() const {
    return static_cast<int32_t>(tokens.size()) - (spec.generates ? 0 : 1);
  }
  // As high as feed_end() can get: a generator's last token is not fed either.
  int32_t last_feed_end() const { return spec.max_tokens - 1; }
  int32_t remaining() const { return feed_end() - computed; }
  bool decoding() const {
    return spec.generates && computed >= spec.prefill_end && remaining() == 1;
  }
};

}  // namespace kascade

#endif  // KASCADE_ENGINE_SCHEDULER_SEQUENCE_H_
