// The files of `kascade benchmark --out DIR`.
#ifndef KASCADE_CLIENT_BENCHMARK_BENCHMARK_REPORT_H_
#define KASCADE_CLIENT_BENCHMARK_BENCHMARK_REPORT_H_

#include <string>
#include <vector>

#include "client/benchmark/benchmark.h"
#include "client/eval/report_files.h"
#include "client/views/benchmark_view.h"

namespace kascade::client {

// report.md, which shows the other ones; schedule.svg, similarity.svg and speed.svg;
// benchmark.json, as --json prints it.
std::vector<ReportFile> benchmark_report(const v1::GetModelInfoResponse& info,
                                         const BenchmarkInputs& inputs,
                                         const BenchmarkSettings& settings,
                                         const BenchmarkResults& results);

}  // namespace kascade::client

#endif  // KASCADE_CLIENT_BENCHMARK_BENCHMARK_REPORT_H_
