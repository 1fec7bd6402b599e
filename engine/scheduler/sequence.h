// One request inside the engine, as the scheduler sees it: tokens, progress, blocks.
#ifndef KASCADE_ENGINE_SCHEDULER_SEQUENCE_H_
#define KASCADE_ENGINE_SCHEDULER_SEQUENCE_H_

#include <cstdint>
#include <vector>

#include "absl/time/time.h"
#include "engine/cache/blocks.h"
#include "engine/types.h"

namespace kascade {

enum class Priority { kInteractive, kBackground };  // background: calibration

// What the scheduler must know to admit a sequence.
struct SequenceSpec {
  std::vector<Token> tokens{};     // prompt, or the text to score
  bool generates = false;          // appends one token per step after the prompt
  int32_t max_tokens = 0;          // prompt + generated, at most; = tokens.size() when scoring
  // Rows that are fed from tokens[0, prefill_end) use the tile rule and are cut at tile borders;
  // rows from prefill_end on use the row rule.
  int32_t prefill_end = 0;
  int32_t query_tile = 32;         // chunks of the tile-rule part end on its multiples
  int32_t max_row_rule_rows = 0;   // most row-rule rows in one step (bounds the selection's memory)
  int32_t first_logit = 0;         // logits are wanted of rows from this position on
  int32_t branches = 1;            // 2: dense and sparse in lockstep, each with its own cache
  Priority priority = Priority::kInteractive;
  absl::Time deadline = absl::InfiniteFuture();
};

struct Sequence {
  SeqId id = 0;
  SequenceSpec spec;
  std::vector<Token> tokens{};  // grows when generating
  int32_t computed = 0;         // tokens whose keys and values are in the cache (all branches)
  std::vector<BlockTable> tables{};  // [branches]
  absl::Time admitted{};
  absl::Time first_scheduled = absl::InfiniteFuture();
  uint64_t order = 0;  // of admission; a preempted sequence keeps it

  // Tokens that a step has yet to feed: a text's last token is never fed, a generator's is.
  int32_t feed_end() const {
    return static_cast<int32_t>(tokens.size()) - (spec.generates ? 0 : 1);
  }
  int32_t remaining() const { return feed_end() - computed; }
  bool decoding() const {
    return spec.generates && computed >= spec.prefill_end && remaining() == 1;
  }
};

}  // namespace kascade

#endif  // KASCADE_ENGINE_SCHEDULER_SEQUENCE_H_
