#include "client/eval/quality_suite.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <utility>

#include "client/eval/pass_key.h"
#include "client/eval/recall.h"
#include "client/eval/variants.h"

namespace kascade::client {
namespace {

constexpr int32_t kWindows[] = {512, 2048, 4096};

class Suite {
 public:
  Suite(Session& session, const QualityInputs& inputs) : session_(session), inputs_(inputs) {}

  absl::StatusOr<QualityResults> run();

 private:
  absl::Status prepare();
  absl::Status measure_all(QualityResults& results);
  absl::StatusOr<QualityRow> measure(const Variant& variant);
  absl::Status calibrate(const Variant& variant, QualityRow& row);
  absl::StatusOr<WindowFigures> compare(const std::vector<int32_t>& tokens, int32_t window,
                                        const v1::AttentionOptions& attention, QualityRow& row);
  absl::StatusOr<v1::ScoreSummary> score(const std::vector<int32_t>& tokens, int32_t window,
                                         const v1::AttentionOptions& attention);
  void report(const QualityRow& row);

  int32_t context() const { return session_.info().model().context_length(); }

  Session& session_;
  const QualityInputs& inputs_;
  std::vector<int32_t> held_out_{};  // tokens
  std::vector<std::vector<int32_t>> others_{};
  v1::CalibrationResult last_schedule_{};
  size_t done_ = 0, variants_ = 0;
  std::chrono::steady_clock::time_point begin_ = std::chrono::steady_clock::now();
};

double seconds_since(std::chrono::steady_clock::time_point begin) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

absl::Status Suite::prepare() {
  std::vector<std::string> texts = {inputs_.held_out.text};
  for (const NamedText& other : inputs_.others) texts.push_back(other.text);
  auto encoded = session_.encode(texts);
  if (!encoded.ok()) return encoded.status();
  for (auto& tokens : *encoded) {
    if (static_cast<int32_t>(tokens.size()) < inputs_.tokens) {
      return absl::InvalidArgumentError(
          fmt::format("a text to score has {} tokens, {} are needed (--tokens)", tokens.size(),
                      inputs_.tokens));
    }
  }
  held_out_ = std::move(encoded->front());
  others_.assign(std::make_move_iterator(encoded->begin() + 1),
                 std::make_move_iterator(encoded->end()));
  return absl::OkStatus();
}

absl::Status Suite::calibrate(const Variant& variant, QualityRow& row) {
  v1::CalibrateRequest request = *variant.calibration;
  request.add_texts(inputs_.calibration.text);
  if (variant.mixes_texts) {
    for (const NamedText& other : inputs_.others) request.add_texts(other.text);
  }
  request.set_activate(false);
  auto result = session_.calibrate(request);
  if (!result.ok()) return result.status();
  const v1::Schedule& schedule = result->schedule();
  row.anchors = static_cast<int32_t>(
      std::count_if(schedule.layers().begin(), schedule.layers().end(),
                    [](const auto& layer) { return layer.role() != v1::LAYER_ROLE_REUSE; }));
  for (const auto& candidate : result->candidates()) {
    if (candidate.anchors() == *row.anchors) {
      row.predicted_similarity = candidate.predicted_similarity();
    }
  }
  last_schedule_ = *std::move(result);
  return session_.activate(last_schedule_.schedule().schedule_id());
}

absl::StatusOr<v1::ScoreSummary> Suite::score(const std::vector<int32_t>& tokens, int32_t window,
                                              const v1::AttentionOptions& attention) {
  v1::ScoreRequest request;
  request.add_inputs()->mutable_token_ids()->mutable_ids()->Add(tokens.begin(),
                                                                tokens.begin() + inputs_.tokens);
  request.set_add_bos(true);
  *request.mutable_attention() = attention;
  request.mutable_attention()->set_mode(v1::ATTENTION_MODE_COMPARE);
  request.set_tile_comparison(true);
  request.set_protocol(v1::SCORE_PROTOCOL_ROLLING);
  request.set_window_tokens(window);
  return session_.score(request);
}

absl::StatusOr<WindowFigures> Suite::compare(const std::vector<int32_t>& tokens, int32_t window,
                                             const v1::AttentionOptions& attention,
                                             QualityRow& row) {
  const auto summary = score(tokens, window, attention);
  if (!summary.ok()) return summary.status();
  const v1::AttentionReport& report = summary->attention();
  row.reuse_layers_ratio = report.reuse_layers_ratio();
  row.keys_attended_ratio = report.keys_attended_ratio();
  row.keys_scored_ratio = report.keys_scored_ratio();
  row.kv_bytes_per_token = report.kv_bytes_read_per_token();
  row.dense_kv_bytes_per_token = report.dense_kv_bytes_read_per_token();
  const v1::Comparison& by_row = summary->comparison();
  const v1::Comparison& by_tile = summary->tile_comparison();
  return WindowFigures{.window = window,
                       .tokens = summary->tokens_scored(),
                       .dense_perplexity = summary->perplexity(),
                       .change_percent = by_row.degradation_percent(),
                       .change_error = by_row.degradation_percent_standard_error(),
                       .mean_kl = by_row.mean_kl(),
                       .tile_change_percent = by_tile.degradation_percent(),
                       .tile_mean_kl = by_tile.mean_kl()};
}

absl::StatusOr<QualityRow> Suite::measure(const Variant& variant) {
  QualityRow row{.group = variant.group, .label = variant.label, .ratio = variant.ratio};
  if (variant.calibration) {
    if (const auto status = calibrate(variant, row); !status.ok()) return status;
  }
  const auto& tokens = variant.text < 0 ? held_out_ : others_[static_cast<size_t>(variant.text)];
  for (const int32_t window : kWindows) {
    if (window > context()) continue;
    auto figures = compare(tokens, window, variant.attention, row);
    if (!figures.ok()) return figures.status();
    row.windows.push_back(*figures);
  }
  if (variant.text >= 0) return row;
  row.cases = variant.is_default ? inputs_.default_cases : inputs_.cases;
  const PassKeyPlan plan{.cases = row.cases, .tokens = longest_prompt(session_)};
  v1::AttentionOptions attention = variant.attention;
  attention.set_mode(v1::ATTENTION_MODE_SPARSE);
  const auto found = find_pass_keys(session_, plan, held_out_, attention);
  if (!found.ok()) return found.status();
  row.found = *found;
  return row;
}

void Suite::report(const QualityRow& row) {
  const double elapsed = seconds_since(begin_);
  const double left = elapsed / static_cast<double>(done_) * static_cast<double>(variants_ - done_);
  fmt::print(stderr,
             "{:3d}/{} {:<11} {:<44} ΔPPL {:+8.2f} %  KL {:.4f}  bytes {:5.1f} %  found {}/{}  "
             "({:.0f} s, about {:.0f} s left)\n",
             done_, variants_, row.group, row.label, row.longest().change_percent,
             row.longest().mean_kl, 100 * row.bytes_ratio(), row.found, row.cases, elapsed, left);
}

absl::Status Suite::measure_all(QualityResults& results) {
  const auto& model = session_.info().model();
  VariantPlan plan{.layers = model.layers(), .groups = inputs_.groups};
  for (const NamedText& other : inputs_.others) plan.others.push_back(other.name);
  const auto add = [&](const std::vector<Variant>& variants) -> absl::Status {
    for (const Variant& variant : variants) {
      auto row = measure(variant);
      if (!row.ok()) return row.status();
      ++done_;
      report(*row);
      results.rows.push_back(*std::move(row));
      if (variant.is_default) results.schedule = last_schedule_;
    }
    return absl::OkStatus();
  };
  plan.default_anchors = model.layers();
  variants_ = all_variants(plan).size();
  if (auto status = add({default_variant()}); !status.ok()) return status;
  plan.default_anchors = *results.rows.front().anchors;
  auto recall = measure_recall(session_, held_out_, inputs_.default_cases);
  if (!recall.ok()) return recall.status();
  results.recall = *std::move(recall);
  if (auto status = add(other_variants(plan)); !status.ok()) return status;
  std::vector<Variant> rivals;  // of greedy plans: the best one with as many selecting layers
  for (const QualityRow& row : results.rows) {
    if (row.group == "greedy") rivals.push_back(dp_like(row.label, *row.anchors));
  }
  return add(rivals);
}

absl::StatusOr<QualityResults> Suite::run() {
  if (auto status = prepare(); !status.ok()) return status;
  const auto before = session_.active_schedule();
  if (!before.ok()) return before.status();
  QualityResults results{.model = session_.info()};
  absl::Status status = measure_all(results);
  status.Update(before->empty() ? session_.deactivate() : session_.activate(*before));
  if (!status.ok()) return status;
  results.seconds = seconds_since(begin_);
  return results;
}

}  // namespace

absl::StatusOr<QualityResults> run_quality_suite(Session& session, const QualityInputs& inputs) {
  return Suite(session, inputs).run();
}

}  // namespace kascade::client
