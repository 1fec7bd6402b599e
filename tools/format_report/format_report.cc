#include "tools/format_report/format_report.h"

#include <algorithm>
#include <memory>
#include <span>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/base/softmax.h"
#include "engine/model/checkpoint.h"
#include "engine/model/config.h"
#include "engine/model/folder_check.h"
#include "tools/format_report/format_names.h"
#include "tools/format_report/model_run.h"

namespace kascade::format_report {
namespace {

constexpr int32_t kDefaultWindowTokens = 2048;
constexpr int32_t kDefaultWindows = 4;
constexpr int32_t kMostWindows = 10'000;

absl::StatusOr<WindowChoice> window_choice(const ReportOptions& options,
                                           const ModelConfig& config) {
  if (options.texts.empty()) return absl::InvalidArgumentError("texts: at least one is needed");
  const auto texts = static_cast<int32_t>(options.texts.size());
  WindowChoice choice{.window_tokens = options.window_tokens, .per_text = options.windows_per_text};
  // So long each row attends to all rows before it, as ModelRun computes it.
  const int32_t longest = config.unwindowed_context();
  if (choice.window_tokens == 0) choice.window_tokens = std::min(kDefaultWindowTokens, longest);
  if (choice.per_text == 0) choice.per_text = std::max(1, kDefaultWindows / texts);
  if (choice.window_tokens < 2 || choice.window_tokens > longest) {
    return absl::InvalidArgumentError(absl::StrCat(
        "window_tokens: must be in [2, ", longest, "] (the model's ",
        config.sliding_window ? "sliding window" : "context", "), got ", choice.window_tokens));
  }
  if (choice.per_text < 1 || choice.per_text > kMostWindows) {
    return absl::InvalidArgumentError(absl::StrCat("windows_per_text: must be in [1, ",
                                                   kMostWindows, "], got ", choice.per_text));
  }
  return choice;
}

FormatMemory memory_of(const ModelRun& run) {
  return {.format = run.precision().weights,
          .cache = run.precision().cache,
          .bytes = run.packed_bytes(),
          .bits_per_weight = run.bits_per_weight()};
}

// Compares two runs of one model over the windows.
class Comparison {
 public:
  Comparison(const ReportOptions& options, const std::vector<TextWindow>& windows,
             std::function<void(int64_t)> count_tokens)
      : options_(options), windows_(windows), count_tokens_(std::move(count_tokens)) {}

  absl::StatusOr<FormatResult> run(ModelRun& f32, ModelRun& format) {
    FormatResult result{.memory = memory_of(format)};
    result.texts.resize(options_.texts.size());
    for (const TextWindow& window : windows_) {
      const absl::Status status = compare(window, f32, format, result.texts[window.text]);
      if (!status.ok()) return status;
    }
    for (const LossSums& text : result.texts) result.all.add(text);
    return result;
  }

 private:
  absl::Status compare(const TextWindow& window, ModelRun& f32, ModelRun& format, LossSums& sums) {
    f32.start(window.tokens);
    format.start(window.tokens);
    const auto end = static_cast<int32_t>(window.tokens.size()) - 1;
    for (int32_t begin = 0; begin < end; begin += kChunkRows) {
      if (options_.cancelled && options_.cancelled->load()) {
        return absl::CancelledError("interrupted");
      }
      const int32_t rows = std::min(kChunkRows, end - begin);
      const auto first = f32.next_logits(rows), second = format.next_logits(rows);
      const absl::Status status = add_rows(window, begin, rows, first, second, sums);
      if (!status.ok()) return status;
      count_tokens_(rows);
    }
    return absl::OkStatus();
  }

  absl::Status add_rows(const TextWindow& window, int32_t begin, int32_t rows,
                        std::span<const float> first, std::span<const float> second,
                        LossSums& sums) {
    const size_t vocab = first.size() / static_cast<size_t>(rows);
    for (int32_t i = 0; i < rows; ++i) {
      const auto at = static_cast<size_t>(i) * vocab;
      const auto first_row = first.subspan(at, vocab), second_row = second.subspan(at, vocab);
      if (first_not_finite(first_row) >= 0 || first_not_finite(second_row) >= 0) {
        return absl::InternalError(absl::StrCat(options_.texts[window.text].name,
                                                ": logits are not finite at token ", begin + i,
                                                " of a window"));
      }
      const Token target = window.tokens[static_cast<size_t>(begin + i) + 1];
      sums.add(distributions_.compare(first_row, second_row, target));
    }
    return absl::OkStatus();
  }

  const ReportOptions& options_;
  const std::vector<TextWindow>& windows_;
  std::function<void(int64_t)> count_tokens_;
  DistributionComparison distributions_;
};

// What was measured, without the results.
absl::StatusOr<FormatReport> described(const ReportOptions& options, const ModelConfig& config,
                                       const WindowChoice& choice) {
  const auto checkpoint = open_checkpoint(options.model, config);
  if (!checkpoint.ok()) return checkpoint.status();
  FormatReport report{.model = config.name,
                      .weights_digest = checkpoint->weights_digest,
                      .checkpoint_dtype = checkpoint->dtype,
                      .parameters = config.parameters(),
                      .window_tokens = choice.window_tokens,
                      .windows_per_text = choice.per_text};
  for (const ReportText& text : options.texts) report.texts.push_back(text.name);
  return report;
}

absl::Status compare_all(const ReportOptions& options, const ModelConfig& config,
                         const std::vector<TextWindow>& windows, FormatReport& report,
                         std::vector<WeightFormat> formats,
                         const std::function<void(const ReportProgress&)>& progress) {
  auto f32 = ModelRun::open(options.model, config, WeightFormat::kF32, report.window_tokens);
  if (!f32.ok()) return f32.status();
  report.f32 = memory_of(**f32);
  report.instruction_set = (*f32)->info().instruction_set;
  report.threads = (*f32)->info().threads;
  ReportProgress state;
  for (const TextWindow& window : windows) {
    state.tokens_total += static_cast<int64_t>(window.tokens.size()) - 1;
  }
  state.tokens_total *= static_cast<int64_t>(formats.size());
  for (const WeightFormat format : formats) {
    state.format = format;
    auto run = ModelRun::open(options.model, config, format, report.window_tokens);
    if (!run.ok()) return run.status();
    Comparison comparison(options, windows, [&](int64_t tokens) {
      state.tokens_done += tokens;
      progress(state);
    });
    auto result = comparison.run(**f32, **run);
    if (!result.ok()) return result.status();
    report.formats.push_back(*std::move(result));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<FormatReport> measure_formats(
    const ReportOptions& options, const std::function<void(const ReportProgress&)>& progress) {
  if (auto status = check_model_folder(options.model); !status.ok()) return status;
  const auto config = load_config(options.model);
  if (!config.ok()) return config.status();
  const auto choice = window_choice(options, *config);
  if (!choice.ok()) return choice.status();
  const auto tokenizer = open_tokenizer(options.model);
  if (!tokenizer.ok()) return tokenizer.status();
  const auto windows = choose_windows(options.texts, **tokenizer, config->vocab, *choice);
  if (!windows.ok()) return windows.status();
  auto report = described(options, *config, *choice);
  if (!report.ok()) return report.status();
  std::vector<WeightFormat> formats = options.formats;
  if (formats.empty()) {
    DefaultFormats chosen = default_formats(report->checkpoint_dtype);
    formats = std::move(chosen.formats);
    report->left_out = std::move(chosen.left_out);
  }
  const absl::Status status =
      compare_all(options, *config, *windows, *report, std::move(formats), progress);
  if (!status.ok()) return status;
  return report;
}

}  // namespace kascade::format_report
