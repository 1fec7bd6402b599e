#include "tools/train/evaluation.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>
#include <numeric>
#include <utility>
#include <vector>

#include "engine/training/block_selection.h"

namespace kascade::train {
namespace {

// Sums over texts of what one text gives.
class Sums {
 public:
  explicit Sums(const TrainingInputs& inputs) : inputs_(inputs) {}

  void add(const training::TrainingText& text) {
    const training::Student<float>& student = *inputs_.student;
    const auto teacher = student.dense_stream(text.tokens);
    const training::LossSettings settings{.divergence = 1, .cross_entropy = 1, .temperature = 1};
    const training::TextLoss adapted = student.text_loss(
        text.tokens, teacher, text.targets, settings, inputs_.adapter.parameters.data(), nullptr);
    const double dense = student.cross_entropy(teacher, text.targets);
    const auto predicted =
        std::ssize(text.targets) - std::ranges::count(text.targets, training::kNoTarget);
    const auto tokens = std::ssize(text.tokens);
    rises_.push_back({static_cast<double>(predicted), adapted.cross_entropy - dense});
    result_.predicted += predicted;
    result_.tokens += tokens;
    result_.dense_nll += dense * static_cast<double>(predicted);
    result_.adapter_nll += adapted.cross_entropy * static_cast<double>(predicted);
    result_.divergence += adapted.divergence * static_cast<double>(tokens);
    for (int64_t i = 0; i < tokens; ++i) {
      const auto keys = training::keys_read(inputs_.adapter.options, i);
      keys_ += static_cast<double>(std::accumulate(keys.begin(), keys.end(), int64_t{0}));
      causal_keys_ += static_cast<double>(i + 1);
    }
  }

  Evaluation result() const {
    Evaluation result = result_;
    const auto predicted = static_cast<double>(result.predicted);
    result.texts = std::ssize(rises_);
    result.dense_nll /= predicted;
    result.adapter_nll /= predicted;
    result.divergence /= static_cast<double>(result.tokens);
    result.keys_share = keys_ / causal_keys_;
    result.rise_error = error(result.adapter_nll - result.dense_nll, predicted);
    return result;
  }

 private:
  // Of the mean rise: texts are independent, and count by their predicted tokens.
  double error(double mean, double predicted) const {
    const auto texts = static_cast<double>(rises_.size());
    if (texts < 2) return std::numeric_limits<double>::quiet_NaN();
    double squares = 0;
    for (const auto& [tokens, rise] : rises_) squares += std::pow(tokens * (rise - mean), 2);
    return std::sqrt(squares * texts / (texts - 1)) / predicted;
  }

  const TrainingInputs& inputs_;
  Evaluation result_{};
  std::vector<std::pair<double, double>> rises_{};  // predicted tokens of a text, and its mean rise
  double keys_ = 0;
  double causal_keys_ = 0;
};

}  // namespace

double Evaluation::dense_perplexity() const { return std::exp(dense_nll); }
double Evaluation::adapter_perplexity() const { return std::exp(adapter_nll); }

absl::StatusOr<Evaluation> evaluate(const TrainingRequest& request,
                                    const std::atomic<bool>& interrupted,
                                    const std::function<void(int64_t, int64_t)>& report) {
  TrainingInputs inputs;
  if (auto status = open_inputs(request, inputs); !status.ok()) return status;
  std::vector<training::TrainingText> texts = std::move(inputs.texts.training);
  std::ranges::move(inputs.texts.held_out, std::back_inserter(texts));
  Sums sums(inputs);
  for (const training::TrainingText& text : texts) {
    if (interrupted.load()) return absl::CancelledError("interrupted");
    sums.add(text);
    report(sums.result().texts, std::ssize(texts));
  }
  return sums.result();
}

}  // namespace kascade::train
