// Measurements as Markdown for people and as JSON for programs.
#ifndef KASCADE_TESTS_BENCH_REPORT_H_
#define KASCADE_TESTS_BENCH_REPORT_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "nlohmann/json.hpp"
#include "tests/bench/ceilings.h"
#include "tests/bench/cost_model.h"
#include "tests/bench/processor_time.h"
#include "tests/bench/samples.h"
#include "tests/bench/work.h"

namespace kascade::bench {

// One line of a table.
struct Measurement {
  std::string command{};  // "prefill"
  std::string what{};     // "chunk", "gate_up" …
  std::string mode{};     // "dense", "sparse", "-"
  int32_t depth = 0;      // tokens before the rows
  int32_t sequences = 1;
  int32_t rows = 0;  // of all sequences
  bool per_query = false;
  StepWork work{};
  Speeds ceilings{};  // read: replaced by what each sample measured beside it
  SampleSet samples{};

  Summary seconds() const;
  Summary share_of_floor() const;  // 1 = as fast as the machine can
};

// Where and on what it ran.
struct Circumstances {
  std::string model{};
  std::string processor{};
  std::string weights{};
  std::string kv_cache{};
  std::string date{};  // RFC 3339, UTC
  std::string load_begin{};
  std::string load_end{};
  std::string schedule{};  // of sparse steps, as describe(MeasuredSchedule) tells
  int32_t layers = 0;
  int32_t threads = 0;
  Clock clock = Clock::kWall;
  Ceilings ceilings{};
};

std::string to_markdown(const Circumstances& circumstances,
                        const std::vector<Measurement>& measurements,
                        const std::optional<CostModel>& costs);
nlohmann::ordered_json to_json(const Circumstances& circumstances,
                               const std::vector<Measurement>& measurements,
                               const std::optional<CostModel>& costs);

}  // namespace kascade::bench

#endif  // KASCADE_TESTS_BENCH_REPORT_H_
