// One Score: windows go to the engine, a few inputs at a time, and come back as sums and columns.
#ifndef KASCADE_SERVER_SCORE_CALL_H_
#define KASCADE_SERVER_SCORE_CALL_H_

#include <array>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "engine/engine.h"
#include "kascade/v1/score.pb.h"
#include "server/score_plan.h"
#include "server/score_totals.h"
#include "server/stream_call.h"

namespace kascade::server {

class ScoreCall final : public StreamCall<v1::ScoreResponse> {
 public:
  explicit ScoreCall(ServerContext& host) : StreamCall(host, "Score") {}

  // Checks and submits the first windows, then returns.
  void start(const v1::ScoreRequest& request, absl::Time deadline);

 private:
  using Totals = std::array<ScoreTotals, 2>;  // [passes of a window]
  struct Progress {
    size_t window = 0;           // that runs or comes next
    size_t pass = 0;             // of that window: by the plan's rule, by the tile rule
    int32_t scored = 0;          // tokens of that pass
    std::optional<SeqId> seq{};  // while it runs
    Totals totals{};
    int64_t first_difference = 0;  // of the input's in each of differences_
  };

  void cancelled() override;
  void written() override;
  void send_started();
  // Submits what may run beside what runs.
  void submit_ready();
  absl::Status submit(int input);  // mutex_ held
  Request request_of(int input) const;
  void on_event(int input, const Event& event);
  // Both with mutex_ held; messages to send go to the back of `out`.
  void take(int input, const Event& event, std::vector<v1::ScoreResponse>& out);
  void end_window(int input, const kascade::Finish& finish, std::vector<v1::ScoreResponse>& out);
  void add_columns(int input, const Event& event, std::vector<v1::ScoreResponse>& out) const;
  void add_progress(std::vector<v1::ScoreResponse>& out);
  void add_summary(int input, std::vector<v1::ScoreResponse>& out);
  void add_total(std::vector<v1::ScoreResponse>& out);
  // What all inputs have in common: protocol and BOS.
  v1::ScoreProtocol protocol() const;
  bool begin_with_bos() const;
  // The figures of the tokens whose differences begin at first_difference.
  void describe(const Totals& totals, int64_t first_difference, v1::ScoreSummary& out);
  void fail(const absl::Status& status);
  bool compares() const { return plan_.attention.mode == Mode::kCompare; }

  ScorePlan plan_;  // constant once the first window is submitted

  std::mutex mutex_;                // guards what follows; never held while something is sent
  std::vector<Progress> progress_;  // [inputs]
  // Comparisons: sparse − dense log-probabilities, [passes] of [scored tokens], input by input;
  // those of an input that ended are in no order.
  std::array<std::vector<float>, 2> differences_;
  std::deque<int> ready_;  // inputs whose next window may be submitted
  int next_input_ = 0;     // first one not yet in ready_
  bool admitted_ = false;  // some window of this call was taken in
  int ended_ = 0;
  int64_t tokens_done_ = 0;
  absl::Time last_progress_{};
  bool failed_ = false;
};

}  // namespace kascade::server

#endif  // KASCADE_SERVER_SCORE_CALL_H_
