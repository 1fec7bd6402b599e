// One request inside the engine: the only record of its tokens, progress, blocks and attention. The
// scheduler owns it, and the runtime attaches its own data to it.
#ifndef KASCADE_ENGINE_SCHEDULER_SEQUENCE_H_
#define KASCADE_ENGINE_SCHEDULER_SEQUENCE_H_

#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "engine/base/priority.h"
#include "engine/base/types.h"
#include "engine/cache/blocks.h"

namespace kascade {

class AttentionPolicy;

// What the scheduler must know to admit a sequence. admit() CHECKs that there is a token to feed (a
// text to score has at least two tokens), that a generating sequence has room for one more token,
// that max_tokens ≤ the model's context, that query_tile is in [1, 128], and that branches is 1 or
// 2.
struct SequenceSpec {
  std::vector<Token> tokens{};  // prompt or text to score; admit() moves it to Sequence::tokens
  // [branches] the attention of each branch; the scheduler itself does not look at it.
  std::vector<std::shared_ptr<const AttentionPolicy>> policies{};
  bool generates = false;  // appends one token per step after the prompt
  int32_t max_tokens = 0;  // most tokens of prompt and output; tokens.size() when scoring
  // Rows below prefill_end select keys per tile, and their chunks end at tile borders. Rows from
  // prefill_end on select per query.
  int32_t prefill_end = 0;
  int32_t query_tile = 32;  // positions
  // Most rows of one step that select per query, over all sequences that set a limit; 0 = no limit.
  // This bounds the memory of the selections. A sequence with a single such row left to feed
  // (decoding) is exempt.
  int32_t max_per_query_rows = 0;
  int32_t first_logit = 0;  // scoring: first position whose logits are computed
  int32_t branches = 1;     // 2: the two runs of a comparison, in lockstep, each with its own cache
  Priority priority = Priority::kInteractive;
  bool has_whole_chunks = false;  // exempt from SchedulerLimits::max_background_step_seconds
  std::string client{};           // whose service the sequence is accounted to
  absl::Time deadline = absl::InfiniteFuture();
};

// The runtime's own data of a sequence; the scheduler only stores it.
class SequenceAttachment {
 public:
  virtual ~SequenceAttachment() = default;
};

struct Sequence {
  SeqId id = 0;
  SequenceSpec spec;
  std::unique_ptr<SequenceAttachment> attachment{};
  std::vector<Token> tokens{};  // grows when generating
  int32_t computed = 0;         // tokens whose keys and values are in the cache of every branch
  // The largest value that `computed` had. Results of tokens below it were delivered and are not
  // asked for again after a preemption.
  int32_t delivered = 0;
  std::vector<BlockTable> tables{};  // [branches] while the sequence runs, else empty
  bool has_started = false;          // also while it waits after a preemption
  // A batch sequence that was starved takes precedence over interactive ones that had not started
  // before it was promoted.
  bool promoted = false;
  int32_t overtaken = 0;  // later admitted sequences that started before it, once it is the oldest
  int32_t charged = 0;    // tokens of each branch that its client was charged for

  bool running() const { return !tables.empty(); }
  // The class whose place in the order it has.
  Priority rank() const { return promoted ? Priority::kInteractive : spec.priority; }

  // Tokens to feed so far. The last token of a text to score is never fed; that of a generating
  // sequence is.
  int32_t feed_end() const {
    return static_cast<int32_t>(tokens.size()) - (spec.generates ? 0 : 1);
  }
  // The largest value that feed_end() can reach; the last generated token is not fed either.
  int32_t last_feed_end() const { return spec.max_tokens - 1; }
  int32_t remaining() const { return feed_end() - computed; }
  // Whether its rows that select per query count against the limit. They do not if only one is left
  // to feed.
  bool limits_per_query_rows() const {
    const int32_t begin = std::max(computed, spec.prefill_end);
    return spec.max_per_query_rows > 0 && feed_end() - begin > 1;
  }
  bool decoding() const {
    return spec.generates && computed >= spec.prefill_end && remaining() == 1;
  }
};

}  // namespace kascade

#endif  // KASCADE_ENGINE_SCHEDULER_SEQUENCE_H_
