// Measures what each weight format costs a model in quality: runs the same windows of text with f32
// weights and in the format, and compares the next-token distributions at every position
// (docs/quality/formats.md).
#ifndef KASCADE_TOOLS_FORMAT_REPORT_FORMAT_REPORT_H_
#define KASCADE_TOOLS_FORMAT_REPORT_FORMAT_REPORT_H_

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/backend/tensor.h"
#include "tools/format_report/distribution_loss.h"
#include "tools/format_report/text_windows.h"

namespace kascade::format_report {

struct ReportOptions {
  std::filesystem::path model{};  // a folder that the server can load
  std::vector<ReportText> texts{};
  // bf16, int8, int4 and native, in the order of the report; empty: default_formats().
  std::vector<WeightFormat> formats{};
  // Tokens of a window, from 2 to the model's context, or to its sliding window if it has one; 0:
  // 2,048, or as many as these if they are fewer.
  int32_t window_tokens = 0;
  // Windows of each text, [1, 10,000]; 0: 4 divided by the number of texts, at least 1.
  int32_t windows_per_text = 0;
  // Polled between chunks; null means that the measurement cannot be cancelled.
  const std::atomic<bool>* cancelled = nullptr;
};

// How a model lies in memory in one format.
struct FormatMemory {
  WeightFormat format = WeightFormat::kF32;
  DType cache = DType::kF32;   // of the KV cache in this run
  int64_t bytes = 0;           // of the matrices as they are multiplied, scales included
  double bits_per_weight = 0;  // the same, divided by the number of weights in matrices
};

struct FormatResult {
  FormatMemory memory{};
  std::vector<LossSums> texts{};  // [texts]
  LossSums all{};                 // over all texts
};

struct FormatReport {
  std::string model{};           // name of the folder
  std::string weights_digest{};  // as `Checkpoint` has it
  DType checkpoint_dtype = DType::kF32;
  int64_t parameters = 0;
  std::string instruction_set{};  // of the cpu backend
  int32_t threads = 0;
  std::vector<std::string> texts{};  // names
  int32_t window_tokens = 0;
  int32_t windows_per_text = 0;
  FormatMemory f32{};
  std::vector<FormatResult> formats{};
  std::vector<std::string> left_out{};  // why a format of the default list is not in the report
};

struct ReportProgress {
  WeightFormat format = WeightFormat::kF32;  // that is being compared
  int64_t tokens_done = 0;
  int64_t tokens_total = 0;  // of all formats
};

// INVALID_ARGUMENT for options and texts, naming the field, its range and the value; the errors of
// the readers of the model; UNAVAILABLE for a named format that this machine cannot compute;
// INTERNAL, with text, window and position, for logits that are not finite; CANCELLED. Beside the
// f32 model one other is in memory at a time, and the f32 logits are computed anew for each.
absl::StatusOr<FormatReport> measure_formats(
    const ReportOptions& options, const std::function<void(const ReportProgress&)>& progress);

}  // namespace kascade::format_report

#endif  // KASCADE_TOOLS_FORMAT_REPORT_FORMAT_REPORT_H_
