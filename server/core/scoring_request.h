// What a scoring asks for, and the sequences and windows that follow from it.
#ifndef KASCADE_SERVER_CORE_SCORING_REQUEST_H_
#define KASCADE_SERVER_CORE_SCORING_REQUEST_H_

#include <cstdint>
#include <optional>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "engine/engine.h"
#include "server/core/attention.h"
#include "server/core/score_input.h"

namespace kascade::core {

// As a front end fills it in. The texts and tokens of the inputs must stay valid until
// Scoring::start() returns.
struct ScoringRequest {
  std::vector<ScoreInput> inputs{};  // 1 to 4,096
  PromptOptions prompt_options{};
  // Of the run, or of the first run of a comparison; unset: the active schedule, else dense.
  std::optional<AttentionSource> attention{};
  std::optional<AttentionSource> compared_with{};  // of the second run; set: a comparison
  SelectionGranularity granularity = SelectionGranularity::kPerQuery;  // of scored tokens
  // Of a comparison with per-query selection: compare with per-tile selection, too.
  bool tile_comparison = false;
  std::optional<ScoreProtocol> protocol{};
  std::optional<int32_t> window_tokens{};  // in [2, context + 1]; with kChunk at least 3
  std::optional<int32_t> stride_tokens{};  // with kStrided only, in [1, window_tokens − 1]
  // Takes so many tokens of each input, BOS and context not counted; in [1, kMaxTokensPerText].
  std::optional<int32_t> max_tokens_per_text{};
  bool send_tokens = false;
  bool send_ranks = false;
  int32_t top_logprobs = 0;
  Priority priority = Priority::kBatch;
  std::string client{};  // who sent it
  absl::Time deadline = absl::InfiniteFuture();
};

// The request with its inputs encoded and cut, its attention resolved and its defaults filled in.
struct PreparedScoring {
  std::vector<ScoreSequence> inputs{};
  AttentionChoice attention{};
  std::optional<AttentionChoice> compared_with{};
  SelectionGranularity granularity = SelectionGranularity::kPerQuery;
  bool tile_comparison = false;
  ScoreCut cut{};
  bool send_tokens = false;
  bool send_ranks = false;
  int32_t top_logprobs = 0;
  Priority priority = Priority::kBatch;
  std::string client{};  // who sent it
  absl::Time deadline = absl::InfiniteFuture();

  bool compares() const { return compared_with.has_value(); }
  // How often each window runs.
  size_t passes() const { return tile_comparison ? 2 : 1; }
  // Sums over all inputs.
  int64_t tokens_to_score() const;
  int32_t windows() const;
  // Upper bound on what the scoring holds while it runs, beside the sequences: sums, differences,
  // the windows in the engine, and what the client may leave unread [bytes].
  int64_t running_memory(int32_t vocab) const;
  // What runs in a window of an input in a pass: by `granularity` in the first, per tile in the
  // second.
  Request request(size_t input, size_t window, size_t pass) const;
  Request longest_request() const;  // the first of those with the most tokens
};

// What prepare() says of a request before it looks at the inputs, which may be still to come.
absl::Status check_options(const ScoringRequest& request, const Engine& engine,
                           const Schedules& schedules);

// INVALID_ARGUMENT names the field, its limit and the value. FAILED_PRECONDITION: a schedule is
// asked for and none is active. NOT_FOUND: no schedule has the id. The errors of the guard, which
// then holds what the scoring takes.
absl::StatusOr<PreparedScoring> prepare(const ScoringRequest& request, const Engine& engine,
                                        const Schedules& schedules, RequestGuard& guard);

}  // namespace kascade::core

#endif  // KASCADE_SERVER_CORE_SCORING_REQUEST_H_
