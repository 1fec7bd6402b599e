// Formats the steps of a benchmark as text, and its results as JSON.
#ifndef KASCADE_CLIENT_VIEWS_BENCHMARK_VIEW_H_
#define KASCADE_CLIENT_VIEWS_BENCHMARK_VIEW_H_

#include <string>
#include <vector>

#include "client/benchmark/benchmark.h"
#include "client/views/reports.h"

namespace kascade::client {

// What the user chose, for the blocks that tell it.
struct BenchmarkSettings {
  std::string model{};  // folder that was named, or the server's name for its model
  std::vector<std::string> calibration_files{};
  std::vector<std::string> held_out_files{};
};

// The blocks, in the order in which a benchmark shows them. Each ends with a newline.
std::string device_line(const v1::RuntimeInfo& runtime);
std::string banner(const v1::GetModelInfoResponse& info);
std::string configuration_text(const v1::GetModelInfoResponse& info, const BenchmarkInputs& inputs,
                               const BenchmarkSettings& settings,
                               const std::vector<int32_t>& lengths);
std::string weights_line(const v1::GetModelInfoResponse& info);
std::string texts_text(const BenchmarkResults& results, const BenchmarkSettings& settings);
std::string dense_run_text(const v1::ScoreSummary& score);
std::string sparse_run_text(const v1::ScoreSummary& score);
// Perplexities, degradation and a verdict that names the settings in force.
std::string results_text(const BenchmarkResults& results);
std::string speed_text(const std::vector<SpeedComparison>& speed);

Json speed_json(const std::vector<SpeedComparison>& speed);
Json benchmark_json(const v1::GetModelInfoResponse& info, const BenchmarkInputs& inputs,
                    const BenchmarkSettings& settings, const BenchmarkResults& results);

}  // namespace kascade::client

#endif  // KASCADE_CLIENT_VIEWS_BENCHMARK_VIEW_H_
