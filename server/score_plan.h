// What a Score asks for: the sequences and how each is cut into windows.
#ifndef KASCADE_SERVER_SCORE_PLAN_H_
#define KASCADE_SERVER_SCORE_PLAN_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/engine.h"
#include "kascade/v1/score.pb.h"

namespace kascade::server {

// Tokens [begin, begin + count) of a sequence; those from first_scored (in the window) on are
// scored.
struct ScoreWindow {
  int64_t begin = 0;
  int32_t count = 0;
  int32_t first_scored = 1;
  bool operator==(const ScoreWindow&) const = default;
};

struct ScoreSequence {
  std::vector<Token> tokens{};
  int64_t first_scored = 1;
  int64_t bytes_scored = 0;
  v1::ScoreProtocol protocol = v1::SCORE_PROTOCOL_WHOLE;
  std::vector<ScoreWindow> windows{};

  int64_t tokens_to_score() const { return static_cast<int64_t>(tokens.size()) - first_scored; }
};

struct ScorePlan {
  std::vector<ScoreSequence> inputs{};
  Attention attention{};                       // mode resolved
  std::shared_ptr<const Schedule> schedule{};  // null when dense
  Phase phase = Phase::kRow;
  int32_t window_tokens = 0;
  bool send_tokens = false;
  bool send_ranks = false;
  int32_t top_logprobs = 0;
  absl::Time deadline{};

  int64_t tokens_to_score() const;
  int32_t windows() const;
};

// Cuts `size` tokens, those from `first_scored` on scored once, into windows of at most `window`
// tokens. Every window after the first begins with the last token of the one before; the last one
// is filled up from the front. With first_scored 1 equal to loglikelihood_rolling with context_len
// 1 and max_seq_len = window − 1.
std::vector<ScoreWindow> rolling_windows(int64_t size, int32_t window, int64_t first_scored = 1);

absl::StatusOr<ScorePlan> plan_score(const v1::ScoreRequest& in, const Engine& engine,
                                     absl::Time deadline);

}  // namespace kascade::server

#endif  // KASCADE_SERVER_SCORE_PLAN_H_
