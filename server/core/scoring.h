// One scoring: windows go to the engine, a few inputs at a time, and come back as values of each
// token (columns) and sums. It does not know how requests arrive and answers leave.
#ifndef KASCADE_SERVER_CORE_SCORING_H_
#define KASCADE_SERVER_CORE_SCORING_H_

#include <array>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "engine/engine.h"
#include "server/core/score_totals.h"
#include "server/core/scoring_request.h"
#include "server/core/server_context.h"

namespace kascade::core {

// The request as it was understood.
struct ScoringStarted {
  const PreparedScoring& request;
  ScoreProtocol protocol = ScoreProtocol::kWhole;  // kRolling if any input was cut
  bool begins_with_bos = false;                    // whether all inputs do
  int64_t tokens = 0;                              // sums over all inputs
  int64_t words_to_score = 0;
  int64_t bytes_to_score = 0;
};

struct ScoringProgress {
  int64_t tokens_done = 0;   // over all inputs; a token counts once per pass
  int64_t tokens_total = 0;  // likewise
  double tokens_per_second = 0;
};

// Consecutive scored tokens of one input.
struct ScoredColumns {
  int32_t input = 0;
  int64_t first_position = 0;  // in the input's sequence, BOS and context included
  std::span<const ScoredToken> tokens{};
  std::span<const TokenComparison> comparisons{};  // parallel to tokens in a comparison, else empty
};

// What one pass over the windows gave.
struct PassSummary {
  AttentionCounts counts{};  // of the run, or of the first run
  std::optional<ComparisonFigures> comparison{};
  AttentionCounts second_counts{};  // in a comparison
};

// Result of one input, or of all together.
struct ScoringSummary {
  const PreparedScoring& request;
  std::optional<int32_t> input{};  // unset in the total
  ScoreProtocol protocol = ScoreProtocol::kWhole;
  int32_t windows = 0;
  int64_t tokens = 0;  // of the sequences
  bool begins_with_bos = false;
  int64_t tokens_scored = 0;
  int64_t words_scored = 0;
  int64_t bytes_scored = 0;
  RunFigures figures{};                    // of the run, or of the first run
  PassSummary pass{};                      // by the granularity that was asked for
  std::optional<PassSummary> tile_pass{};  // with per-tile selection, when asked for
};

// Where the results of a scoring go: started; progress and columns as they come, and a summary per
// input, the total after all summaries; ended last. After a failure ended alone follows. What spans
// and references point to is valid during the call. Called by several threads, but not by two at
// once for one input; must not block.
class ScoringSink {
 public:
  virtual ~ScoringSink() = default;
  virtual void started(const ScoringStarted& started) = 0;
  virtual void progress(const ScoringProgress& progress) = 0;
  virtual void columns(const ScoredColumns& columns) = 0;
  virtual void summary(const ScoringSummary& summary) = 0;  // also the total
  // Called at least once, last; only the first call counts. OK after the total.
  virtual void ended(const absl::Status& status) = 0;
  // Memory of what the client has not read yet, bytes: above kMaxUnsentBytes no window is
  // submitted.
  virtual size_t unsent_bytes() const = 0;
};

class Scoring {
 public:
  // `context` and `sink` outlive the scoring. `arrival`: when the request came.
  Scoring(ServerContext& context, ScoringSink& sink, absl::Time arrival)
      : context_(context), sink_(sink), arrival_(arrival), guard_(context.memory) {}

  // Checks and submits the first windows, then returns. `owner` keeps the scoring and its sink
  // alive until the engine is done with both. Called once.
  void start(const ScoringRequest& request, const std::shared_ptr<const void>& owner);
  // The client has read something: windows that waited for it may run. Thread-safe.
  void resume();
  // The client is gone: nothing more is computed. Thread-safe, at any time.
  void cancel();

 private:
  using Totals = std::array<ScoreTotals, 2>;  // [passes of a window]
  struct Progress {
    explicit Progress(int32_t vocab) : token_counts(vocab) {}
    size_t window = 0;           // that runs or comes next
    size_t pass = 0;             // of that window
    int32_t scored = 0;          // tokens of that pass
    std::optional<SeqId> seq{};  // while it runs
    Totals totals{};
    TokenCounts token_counts;
    int64_t first_difference = 0;  // of the input's in each of differences_
  };
  using Message = std::variant<ScoredColumns, ScoringProgress, ScoringSummary>;

  // The windows of a request are one request to the engine's queue.
  Submission submission(bool is_continuation) const {
    return {.is_continuation = is_continuation,
            .priority = request_.priority,
            .client = request_.client};
  }
  // Takes the request over; false if it was cancelled meanwhile.
  bool begin(PreparedScoring prepared);
  void report_start();
  // Submits what may run beside what runs.
  void submit_ready();
  absl::Status submit(size_t input);  // mutex_ held
  void on_event(size_t input, const Event& event);
  // All with mutex_ held; messages to send go to the back of `out`.
  void take(size_t input, const Event& event, std::vector<Message>& out);
  // Takes consecutive tokens of a window, the first with `context` tokens before it.
  static void add_doubt(std::span<const ScoredToken> tokens, int64_t context, Progress& progress);
  void end_window(size_t input, const Finish& finish, std::vector<Message>& out);
  void add_progress(std::vector<Message>& out);
  ScoringSummary summary_of(size_t input);
  ScoringSummary total();
  // The figures of the tokens whose differences begin at first_difference.
  void describe(const Totals& totals, int64_t first_difference, ScoringSummary& out);
  PassSummary describe_pass(const ScoreTotals& totals, size_t pass, bool suspect,
                            int64_t first_difference);
  // What all inputs have in common.
  ScoreProtocol protocol() const;
  bool begin_with_bos() const;
  void send(const std::vector<Message>& messages);
  void fail(const absl::Status& status);
  // Compares one window with dense attention, if the request is drawn. After the end.
  void compare_with_dense();

  ServerContext& context_;
  ScoringSink& sink_;
  const absl::Time arrival_;
  RequestGuard guard_;  // of start(); holds what the request takes until it is destroyed
  std::weak_ptr<const void> owner_{};  // both constant once the first window is submitted
  PreparedScoring request_{};

  std::mutex mutex_;                  // guards what follows; never held while something is sent
  std::vector<Progress> progress_{};  // [inputs]
  // Comparisons: second − first log-probabilities, [passes] of [scored tokens], input by input;
  // those of an input that ended are in no order.
  std::array<std::vector<float>, 2> differences_{};
  std::deque<size_t> ready_{};  // inputs whose next window may be submitted
  size_t next_input_ = 0;       // first one not yet in ready_
  // The place of the first window in the engine's queue, until it is submitted.
  std::optional<AdmittedRequest> admitted_{};
  size_t ended_ = 0;  // inputs
  int64_t tokens_done_ = 0;
  absl::Time last_progress_{};
  bool stopped_ = false;  // failed or cancelled
};

}  // namespace kascade::core

#endif  // KASCADE_SERVER_CORE_SCORING_H_
