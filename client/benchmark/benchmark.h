// The whole job of a user who wants to know what sparse attention does to a model: make a schedule
// from one text, compare dense and sparse on another one, and time both.
#ifndef KASCADE_CLIENT_BENCHMARK_BENCHMARK_H_
#define KASCADE_CLIENT_BENCHMARK_BENCHMARK_H_

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "client/benchmark/run_times.h"
#include "client/commands/texts.h"
#include "client/rpc/session.h"
#include "kascade/v1/calibration_service.pb.h"
#include "kascade/v1/score.pb.h"
#include "tools/terminal/progress.h"

namespace kascade::client {

struct BenchmarkInputs {
  v1::CalibrateRequest calibration{};            // settings and texts
  std::vector<NamedText> held_out{};             // texts that are scored
  std::optional<int32_t> max_tokens_per_text{};  // of a held-out text; the rest is not scored
  std::vector<int32_t> lengths{};  // of the timed prompts, tokens; empty: default_lengths
  int32_t runs = 5;                // of each kind, after one that is not counted; ≥ 1
  int32_t new_tokens = 32;         // decoded after each timed prompt; ≥ 2
};

struct BenchmarkResults {
  int64_t calibration_tokens = 0;
  int64_t held_out_tokens = 0;
  v1::CalibrationResult calibration{};
  double calibration_seconds = 0;
  v1::ScoreSummary score{};  // dense beside sparse
  double score_seconds = 0;
  std::vector<int32_t> lengths{};        // that were timed
  std::vector<SpeedComparison> speed{};  // prefill and decode for each length
};

class Benchmark {
 public:
  // Told after every piece of work; an empty function is not called.
  using OnProgress = std::function<void(const Progress&)>;

  // All three outlive the benchmark.
  Benchmark(Session& session, const BenchmarkInputs& inputs, OnProgress on_progress);

  // The steps, to be called in this order. Each fills its part of results().
  absl::Status count_tokens();
  absl::Status calibrate();
  absl::Status score();
  // Activates the schedule for this time and restores the one that was active before, also after an
  // error and an interrupt.
  absl::Status time_runs();
  // The same under the schedule that is active, after count_tokens() alone.
  absl::Status time_active_schedule();

  const BenchmarkResults& results() const { return results_; }

 private:
  absl::Status time_length(int32_t tokens);
  // One request; adds its times to the two series unless they are null.
  absl::Status run_once(const v1::GenerateRequest& request, RunTimes* prefill, RunTimes* decode);
  v1::GenerateRequest request_of(int32_t tokens, v1::AttentionMode mode) const;

  Session& session_;
  const BenchmarkInputs& inputs_;
  OnProgress on_progress_;
  std::vector<int32_t> tokens_{};  // of the held-out texts, joined
  BenchmarkResults results_{};
};

// 512 tokens, as is usual, and the longest prompt that fits the context and the KV cache, at most
// 16,384 tokens; less where `new_tokens` more do not fit.
std::vector<int32_t> default_lengths(const v1::GetModelInfoResponse& info, int32_t new_tokens);

// The longest prompt that leaves room for `new_tokens`.
int32_t longest_timed_prompt(const v1::GetModelInfoResponse& info, int32_t new_tokens);

}  // namespace kascade::client

#endif  // KASCADE_CLIENT_BENCHMARK_BENCHMARK_H_
