// The commands of kascade-bench.
#ifndef KASCADE_TESTS_BENCH_RUNS_H_
#define KASCADE_TESTS_BENCH_RUNS_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/attention/policy.h"
#include "tests/bench/ceilings.h"
#include "tests/bench/cost_model.h"
#include "tests/bench/measured_schedule.h"
#include "tests/bench/report.h"
#include "tests/bench/samples.h"
#include "tests/bench/steps.h"
#include "tests/bench/synthetic_model.h"
#include "tests/bench/timed_backend.h"

namespace kascade::bench {

struct Settings {
  std::string shape = "llama-3.2-1b";
  int32_t layers = 0;    // 0 = all of the shape
  int32_t length = 512;  // rows of a prefill chunk
  std::vector<int32_t> depths = {0, 2048, 8192, 16384};
  std::vector<int32_t> sequences = {1};  // that decode together
  std::vector<std::string> modes = {"dense", "sparse"};
  std::string weights = "auto";  // or the name of a dtype with blocks: "Q4_K"
  std::string kv_cache_dtype = "auto";
  double ratio = 0.10;         // of the synthetic schedule
  std::string schedule{};      // file of the schedule of sparse steps; empty = a synthetic one
  std::string rule = "tile";   // of prefill
  Clock clock = Clock::kWall;  // kThread: of one thread
  int32_t threads = 0;
  int32_t repeat = 3;
};

class Runs {
 public:
  // Makes the model (seconds) and measures the machine's ceilings.
  static absl::StatusOr<std::unique_ptr<Runs>> make(const Settings& settings);

  absl::Status prefill();
  absl::Status decode();
  absl::Status attention();   // of one layer, each operation alone
  void matmul();              // each matrix of the shape, from memory
  absl::Status end_to_end();  // the engine's own loop: prompts, decoding together, both at once
  // Fits to half of a grid of steps (rows × depth × mode) and predicts the other half.
  absl::Status cost_model();

  const std::vector<Measurement>& measurements() const { return measurements_; }
  const std::optional<CostModel>& costs() const { return costs_; }
  const Ceilings& ceilings() const { return ceilings_; }
  const ModelConfig& config() const { return config_; }
  const TimedBackend& backend() const { return *backend_; }
  const MeasuredSchedule& schedule() const { return schedule_; }

 private:
  Runs(const Settings& settings, const ModelConfig& config, MeasuredSchedule schedule,
       std::unique_ptr<Backend> backend);

  const AttentionPolicy& policy(const std::string& mode) const;
  SyntheticModel& model();
  // Contexts of at least so many sequences and tokens; the last made are kept.
  absl::StatusOr<SyntheticContexts*> contexts(int32_t sequences, int32_t tokens);
  // `rows` of each sequence at every depth in every mode.
  absl::Status steps(const std::string& command, int32_t sequences, int32_t rows, bool per_query);
  void one_step(StepRunner& runner, Measurement measurement, const std::vector<RowRun>& runs);
  void attention_at(SyntheticContexts& contexts, int32_t depth, int32_t rows, bool per_query);
  void matmul_of(const std::string& what, int64_t out_features, int64_t in_features);
  Speeds speeds() const;
  SamplePlan plan() const;
  double cache_element() const;  // bytes of a component of a key, its share of a scale included
  void note(Measurement measurement);

  Settings settings_;
  ModelConfig config_;
  MeasuredSchedule schedule_;
  std::unique_ptr<TimedBackend> backend_;
  std::unique_ptr<SyntheticModel> model_{};
  std::unique_ptr<SyntheticContexts> contexts_{};
  std::shared_ptr<const AttentionPolicy> dense_;
  std::shared_ptr<const AttentionPolicy> sparse_;
  CeilingMeter meter_;
  Ceilings ceilings_{};
  std::vector<Measurement> measurements_{};
  std::optional<CostModel> costs_{};
};

}  // namespace kascade::bench

#endif  // KASCADE_TESTS_BENCH_RUNS_H_
