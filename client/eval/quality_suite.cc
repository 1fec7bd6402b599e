#include "client/eval/quality_suite.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <utility>
#include <vector>

#include "client/commands/files.h"
#include "client/eval/pass_key.h"
#include "client/eval/recall.h"
#include "client/eval/variants.h"
#include "client/rpc/call.h"
#include "tools/terminal/print.h"

namespace kascade::client {
namespace {

constexpr int32_t kWindows[] = {512, 2048, 4096};
constexpr int32_t kLongestPrompt = 4096;  // with its answer, in tokens; to limit the suite's time
constexpr int32_t kKeys = 3;              // pass keys in a prompt
constexpr int32_t kLongTexts = 3;  // factor for the number of tokens, where the text has that many

class Suite {
 public:
  Suite(Session& session, const QualityInputs& inputs, QualityResults& results)
      : session_(session), inputs_(inputs), results_(results) {}

  absl::Status run();

 private:
  // A text as tokens, and its name for error messages.
  struct Text {
    std::string name{};
    std::vector<int32_t> tokens{};
  };

  absl::Status prepare();
  absl::Status prepare_pass_keys();
  std::vector<const Text*> all_texts() const;
  absl::Status measure_all();
  absl::Status add(const std::vector<Variant>& variants);
  absl::StatusOr<QualityRow> measure(const Variant& variant);
  // Runs the calibration of `variant`, stores its result in last_schedule_ and activates it.
  absl::Status calibrate(const Variant& variant);
  // Fills the fields of `row` that describe last_schedule_.
  void describe(QualityRow& row) const;
  absl::StatusOr<WindowFigures> compare(const Text& text, int32_t tokens, int32_t window,
                                        const v1::AttentionOptions& attention, QualityRow& row);
  // Scores the first `tokens` tokens of the text.
  absl::StatusOr<Session::Scored> score(const Text& text, int32_t tokens, int32_t window,
                                        v1::AttentionOptions attention);
  std::vector<Variant> equal_bytes() const;
  // Length of the prompts with pass keys, in tokens.
  int32_t prompt_tokens() const;
  absl::StatusOr<std::vector<RecallCell>> recall();
  void report(const QualityRow& row);

  const v1::ModelInfo& model() const { return session_.info().model(); }

  Session& session_;
  const QualityInputs& inputs_;
  QualityResults& results_;
  Text held_out_{};
  std::vector<Text> others_{};
  // the halves that rows with mixed texts are calibrated on
  std::vector<std::string> other_halves_{};
  PromptStyle style_{};  // of the prompts with pass keys
  v1::CalibrationResult last_schedule_{};
  size_t expected_ = 0;
  std::chrono::steady_clock::time_point begin_ = std::chrono::steady_clock::now();
};

double seconds_since(std::chrono::steady_clock::time_point begin) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

std::pair<std::string, std::string> halves(const std::string& text) {
  const size_t middle = place_to_cut(text, text.size() / 2);
  return {text.substr(0, middle), text.substr(middle)};
}

std::vector<const Suite::Text*> Suite::all_texts() const {
  std::vector<const Text*> texts = {&held_out_};
  for (const Text& other : others_) texts.push_back(&other);
  return texts;
}

absl::Status Suite::prepare() {
  if (model().context_length() < kWindows[0]) {
    return absl::FailedPreconditionError(
        fmt::format("the suite measures windows of {} tokens and more; the model's context is {}",
                    kWindows[0], model().context_length()));
  }
  std::vector<std::string> texts = {inputs_.held_out.text};
  for (const SuiteText& other : inputs_.others) {
    auto [first, second] = halves(other.text);
    other_halves_.push_back(std::move(first));
    texts.push_back(std::move(second));
  }
  auto encoded = session_.encode(texts);
  if (!encoded.ok()) return encoded.status();
  held_out_ = {inputs_.held_out.name, std::move(encoded->front())};
  for (size_t i = 0; i < inputs_.others.size(); ++i) {
    others_.push_back({inputs_.others[i].name, std::move((*encoded)[i + 1])});
  }
  if (auto status = prepare_pass_keys(); !status.ok()) return status;
  v1::AttentionOptions dense;
  dense.set_mode(v1::ATTENTION_MODE_DENSE);
  for (const Text* text : all_texts()) {
    if (static_cast<int32_t>(text->tokens.size()) < inputs_.tokens) {
      return absl::InvalidArgumentError(
          fmt::format("{}: {} tokens to score, {} are needed (--tokens)", text->name,
                      text->tokens.size(), inputs_.tokens));
    }
    // Score once now, so that an unsuitable text is refused at once and not after an hour.
    if (const auto summary = score(*text, inputs_.tokens, kWindows[0], dense); !summary.ok()) {
      return summary.status();
    }
  }
  return absl::OkStatus();
}

absl::Status Suite::prepare_pass_keys() {
  auto style = prompt_style(session_, wants_chat(inputs_.chat, model()));
  if (!style.ok()) return style.status();
  style_ = *std::move(style);
  results_.asked_in = client::describe(style_, model());
  const int32_t filler = prompt_tokens();
  if (static_cast<int32_t>(held_out_.tokens.size()) >= filler) return absl::OkStatus();
  return absl::InvalidArgumentError(fmt::format("{}: {} tokens, {} are needed to hide pass keys in",
                                                held_out_.name, held_out_.tokens.size(), filler));
}

absl::Status Suite::calibrate(const Variant& variant) {
  v1::CalibrateRequest request = variant.calibration.value_or(v1::CalibrateRequest());
  request.add_texts(inputs_.calibration.text);
  if (variant.mixes_texts) {
    for (const std::string& half : other_halves_) request.add_texts(half);
  }
  request.set_activate(false);
  request.set_cancel_on_disconnect(true);
  auto result = session_.calibrate(request);
  if (!result.ok()) return result.status();
  last_schedule_ = *std::move(result);
  return session_.activate(last_schedule_.schedule().schedule_id());
}

void Suite::describe(QualityRow& row) const {
  const v1::Schedule& schedule = last_schedule_.schedule();
  row.passed = last_schedule_.passed();
  if (const v1::QualityReport& quality = schedule.quality();
      quality.has_degradation_percent_standard_error()) {
    row.quality_check_change = quality.degradation_percent();
    row.quality_check_error = quality.degradation_percent_standard_error();
  }
  const auto count = [&](v1::LayerRole role) {
    return static_cast<int32_t>(
        std::count_if(schedule.layers().begin(), schedule.layers().end(),
                      [&](const auto& layer) { return layer.role() == role; }));
  };
  row.anchors = count(v1::LAYER_ROLE_ANCHOR) + 1;  // layer 0 selects keys too
  row.dense_layers = count(v1::LAYER_ROLE_DENSE);
  for (const auto& candidate : last_schedule_.candidates()) {
    if (candidate.anchors() == row.anchors && candidate.dense_layers() + 1 == row.dense_layers) {
      row.predicted_similarity = candidate.predicted_similarity();
    }
  }
}

absl::StatusOr<Session::Scored> Suite::score(const Text& text, int32_t tokens, int32_t window,
                                             v1::AttentionOptions attention) {
  v1::ScoreRequest request;
  request.add_inputs()->mutable_token_ids()->mutable_ids()->Add(text.tokens.begin(),
                                                                text.tokens.begin() + tokens);
  request.set_add_bos(model().adds_bos());
  const bool compares = attention.mode() == v1::ATTENTION_MODE_COMPARE;
  request.set_tile_comparison(compares);
  request.mutable_response()->set_tokens(compares);
  *request.mutable_attention() = std::move(attention);
  request.set_protocol(v1::SCORE_PROTOCOL_ROLLING);
  // the last token of a window is predicted but not an input
  request.set_window_tokens(window + 1);
  auto scored = session_.score(request);
  if (scored.ok() && scored->total.suspect()) {
    return absl::FailedPreconditionError(
        fmt::format("{}: the dense model is hardly better than guessing (perplexity {:.1f}): no "
                    "degradation can be read off it",
                    text.name, scored->total.perplexity()));
  }
  return scored;
}

absl::StatusOr<WindowFigures> Suite::compare(const Text& text, int32_t tokens, int32_t window,
                                             const v1::AttentionOptions& attention,
                                             QualityRow& row) {
  v1::AttentionOptions options = attention;
  options.set_mode(v1::ATTENTION_MODE_COMPARE);
  auto scored = score(text, tokens, window, std::move(options));
  if (!scored.ok()) return scored.status();
  const v1::ScoreSummary& summary = scored->total;
  const v1::AttentionReport& report = summary.attention();
  const std::string& active = last_schedule_.schedule().schedule_id();
  if (!attention.has_baseline() && report.schedule_id() != active) {
    return absl::AbortedError(
        fmt::format("somebody else activated a schedule: {} was measured instead of {}",
                    report.schedule_id(), active));
  }
  row.reuse_layers_ratio = report.reuse_layers_ratio();
  row.keys_attended_ratio = report.keys_attended_ratio();
  row.keys_scored_ratio = report.keys_scored_ratio();
  row.kv_bytes_per_token = report.kv_bytes_read_per_token();
  row.dense_kv_bytes_per_token = report.dense_kv_bytes_read_per_token();
  const v1::Comparison& by_row = summary.comparison();
  const v1::Comparison& by_tile = summary.tile_comparison();
  return WindowFigures{.window = window,
                       .tokens = summary.tokens_scored(),
                       .dense_perplexity = summary.perplexity(),
                       .change_percent = by_row.degradation_percent(),
                       .change_error = by_row.degradation_percent_standard_error(),
                       .mean_kl = by_row.mean_kl(),
                       .mean_kl_error = by_row.mean_kl_standard_error(),
                       .tile_change_percent = by_tile.degradation_percent(),
                       .tile_mean_kl = by_tile.mean_kl(),
                       .kl = std::move(scored->kl)};
}

absl::StatusOr<QualityRow> Suite::measure(const Variant& variant) {
  QualityRow row{.group = variant.group,
                 .label = variant.label,
                 .comparison_row = variant.comparison_row,
                 .baseline = variant.attention.baseline().kind(),
                 .ratio = variant.ratio};
  if (variant.calibration) {
    if (const auto status = calibrate(variant); !status.ok()) return status;
  }
  if (!variant.attention.has_baseline()) describe(row);
  const Text& text = variant.text < 0 ? held_out_ : others_[static_cast<size_t>(variant.text)];
  const int32_t tokens = std::min(variant.is_long ? kLongTexts * inputs_.tokens : inputs_.tokens,
                                  static_cast<int32_t>(text.tokens.size()));
  std::vector<int32_t> windows;
  for (const int32_t window : kWindows) {
    if (window <= std::min(model().context_length(), tokens)) windows.push_back(window);
  }
  // to limit the time that the suite takes
  if (variant.is_long) windows.erase(windows.begin(), windows.end() - 1);
  for (const int32_t window : windows) {
    auto figures = compare(text, tokens, window, variant.attention, row);
    if (!figures.ok()) return figures.status();
    row.windows.push_back(*figures);
  }
  if (variant.is_long) return row;
  row.cases = variant.is_default ? inputs_.default_cases : inputs_.cases;
  const PassKeyOptions options{.cases = row.cases, .tokens = prompt_tokens(), .keys = kKeys};
  v1::AttentionOptions attention = variant.attention;
  attention.set_mode(v1::ATTENTION_MODE_SPARSE);
  const auto found = find_pass_keys(session_, style_, options, held_out_.tokens, attention);
  if (!found.ok()) return found.status();
  row.found = static_cast<int32_t>(std::ranges::count(*found, true));
  return row;
}

int32_t Suite::prompt_tokens() const {
  return std::min(longest_prompt(session_.info(), style_), kLongestPrompt - style_.answer_tokens);
}

absl::StatusOr<std::vector<RecallCell>> Suite::recall() {
  RecallOptions options{.keys = kKeys, .cases = inputs_.default_cases};
  for (const int32_t tokens : {1024, 2048}) {
    if (tokens < prompt_tokens()) options.lengths.push_back(tokens);
  }
  options.lengths.push_back(prompt_tokens());
  return measure_recall(session_, style_, held_out_.tokens, options);
}

void Suite::report(const QualityRow& row) {
  const double elapsed = seconds_since(begin_);
  const size_t done = results_.rows.size();
  const double left = elapsed / static_cast<double>(done) * static_cast<double>(expected_ - done);
  fmt::print(stderr,
             "{:3d}/{} {:<11} {:<44} ΔPPL {:>8} %  KL {:.4f}  bytes {:5.1f} %  found {}/{}  "
             "({:.0f} s, about {:.0f} s left)\n",
             done, expected_, row.group, row.label, signed_fixed(row.longest().change_percent, 2),
             row.longest().mean_kl, 100 * row.bytes_ratio(), row.found, row.cases, elapsed, left);
}

absl::Status Suite::add(const std::vector<Variant>& variants) {
  for (const Variant& variant : variants) {
    auto row = measure(variant);
    if (!row.ok()) return row.status();
    results_.rows.push_back(*std::move(row));
    report(results_.rows.back());
    if (variant.is_default) results_.schedule = last_schedule_;
  }
  return absl::OkStatus();
}

// The baselines that a server could use in practice, each set to read as many bytes as a Kascade
// row at the default ratio.
std::vector<Variant> Suite::equal_bytes() const {
  std::vector<Variant> variants;
  for (const QualityRow& row : results_.rows) {
    if (row.group != "kascade" || row.ratio != results_.rows.front().ratio) continue;
    for (const auto kind : {v1::BASELINE_KIND_STREAMING, v1::BASELINE_KIND_QUEST}) {
      const auto ratio = ratio_reading(results_.rows, kind, row.bytes_ratio());
      if (ratio) variants.push_back(reading_like(row.label, kind, *ratio));
    }
  }
  return variants;
}

absl::Status Suite::measure_all() {
  VariantOptions options{.layers = model().layers(),
                         .context = model().context_length(),
                         .held_out = held_out_.name,
                         .groups = inputs_.groups};
  for (const SuiteText& other : inputs_.others) options.others.push_back(other.name);
  options.default_anchors = model().layers();
  expected_ = expected_rows(options);
  if (auto status = add(default_variants(options)); !status.ok()) return status;
  // If no schedule passed, the best one may have no layers that reuse keys. The schedules of the
  // experiments must have some.
  options.default_anchors = std::max(1, model().layers() / 2);
  if (results_.schedule.passed()) {
    options.default_anchors = results_.rows.front().anchors.value_or(1);
    const auto& layers = results_.schedule.schedule().layers();
    for (int32_t layer = 1; layer < layers.size(); ++layer) {
      if (layers[layer].role() == v1::LAYER_ROLE_DENSE) options.default_dense.push_back(layer);
    }
  }
  auto cells = recall();
  if (!cells.ok()) return cells.status();
  results_.recall = *std::move(cells);
  if (auto status = add(other_variants(options)); !status.ok()) return status;
  // for each greedy row, the best schedule with as many anchors
  std::vector<Variant> comparison_variants;
  for (const QualityRow& row : results_.rows) {
    if (row.group == "greedy")
      comparison_variants.push_back(dp_like(row.label, row.anchors.value_or(1)));
  }
  if (auto status = add(comparison_variants); !status.ok()) return status;
  return add(equal_bytes());
}

absl::Status Suite::run() {
  results_.model = session_.info();
  if (auto status = prepare(); !status.ok()) return status;
  const auto before = session_.active_schedule();
  if (!before.ok()) return before.status();
  // After an interrupt, the active schedule must still be restored and the results so far reported.
  const HeldInterrupts held;
  absl::Status status = measure_all();
  status.Update(session_.restore(*before));
  results_.seconds = seconds_since(begin_);
  if (!status.ok()) results_.broken_off = std::string(status.message());
  return status;
}

}  // namespace

absl::Status run_quality_suite(Session& session, const QualityInputs& inputs,
                               QualityResults& results) {
  return Suite(session, inputs, results).run();
}

std::optional<double> ratio_reading(const std::vector<QualityRow>& rows, v1::BaselineKind kind,
                                    double bytes_ratio) {
  std::vector<std::pair<double, double>> points;  // (bytes ratio, ratio)
  for (const QualityRow& row : rows) {
    if (row.group == "baseline" && row.baseline == kind && row.ratio) {
      points.emplace_back(row.bytes_ratio(), *row.ratio);
    }
  }
  std::ranges::sort(points);
  for (size_t i = 1; i < points.size(); ++i) {
    const auto& [low, from] = points[i - 1];
    const auto& [high, to] = points[i];
    if (bytes_ratio < low || bytes_ratio > high || high <= low) continue;
    return from + (to - from) * (bytes_ratio - low) / (high - low);
  }
  return std::nullopt;
}

}  // namespace kascade::client
