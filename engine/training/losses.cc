#include "engine/training/losses.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"

namespace kascade::training {
namespace {

constexpr int64_t kRowsAtOnce = 256;
constexpr double kNormEps = 1e-5;

struct Moments {
  double mean;
  double inverse_deviation;
};
template <typename T>
Moments moments(const T* row, int64_t cols) {
  double sum = 0;
  double squares = 0;
  for (int64_t c = 0; c < cols; ++c) sum += row[c];
  const double mean = sum / static_cast<double>(cols);
  for (int64_t c = 0; c < cols; ++c) squares += (row[c] - mean) * (row[c] - mean);
  return {mean, 1 / std::sqrt(squares / static_cast<double>(cols) + kNormEps)};
}

// The softmax of logits · factor; returns log Σ exp.
template <typename T>
double softmax(const T* logits, int64_t size, double factor, std::vector<double>& probabilities) {
  probabilities.resize(static_cast<size_t>(size));
  const double largest = *std::max_element(logits, logits + size) * factor;
  double sum = 0;
  for (int64_t i = 0; i < size; ++i)
    sum += probabilities[i] = std::exp(logits[i] * factor - largest);
  for (double& p : probabilities) p /= sum;
  return largest + std::log(sum);
}

// The losses of single rows and the gradients of the student's logits.
template <typename T>
class RowLosses {
 public:
  RowLosses(const LossSettings& settings, std::span<const int32_t> targets)
      : settings_(settings), targets_(targets) {
    for (const int32_t target : targets) losses_.targets += target != kNoTarget ? 1 : 0;
    rows_ = settings.answers_only ? losses_.targets : static_cast<int64_t>(targets.size());
  }

  // Replaces the student's logits of row `row` by their gradient.
  void take(int64_t row, T* student, const T* teacher, int64_t vocab) {
    const int32_t target = targets_[row];
    gradient_.assign(static_cast<size_t>(vocab), 0);
    if (target != kNoTarget) take_target(target, student, vocab);
    if (settings_.divergence != 0 && (target != kNoTarget || !settings_.answers_only)) {
      take_divergence(student, teacher, vocab);
    }
    for (int64_t i = 0; i < vocab; ++i) student[i] = static_cast<T>(gradient_[i]);
  }
  const LogitLosses& losses() const { return losses_; }

 private:
  void take_target(int32_t target, const T* student, int64_t vocab) {
    const double log_sum = softmax(student, vocab, 1, student_);
    const auto count = static_cast<double>(losses_.targets);
    losses_.cross_entropy += (log_sum - student[target]) / count;
    const double weight = settings_.cross_entropy / count;
    for (int64_t i = 0; i < vocab; ++i) gradient_[i] += weight * student_[i];
    gradient_[target] -= weight;
  }

  void take_divergence(const T* student, const T* teacher, int64_t vocab) {
    const double factor = 1 / settings_.temperature;
    const double student_sum = softmax(student, vocab, factor, student_);
    const double teacher_sum = softmax(teacher, vocab, factor, teacher_);
    const auto count = static_cast<double>(rows_);
    double divergence = student_sum - teacher_sum;
    for (int64_t i = 0; i < vocab; ++i) {
      divergence += teacher_[i] * (teacher[i] - student[i]) * factor;
    }
    const double square = settings_.temperature * settings_.temperature;
    losses_.divergence += std::max(0.0, divergence) * square / count;
    const double weight = settings_.divergence * settings_.temperature / count;
    for (int64_t i = 0; i < vocab; ++i) gradient_[i] += weight * (student_[i] - teacher_[i]);
  }

  const LossSettings& settings_;
  std::span<const int32_t> targets_;
  int64_t rows_ = 0;  // of the divergence
  LogitLosses losses_;
  std::vector<double> student_;  // probabilities
  std::vector<double> teacher_;
  std::vector<double> gradient_;  // of the logits of one row
};

}  // namespace

absl::StatusOr<LossSettings> loss_named(std::string_view name) {
  const std::map<std::string_view, LossSettings> presets = {
      {"mse_hidden", {.hidden = 1}},
      {"kl_logits", {.divergence = 1}},
      {"kl_output_only", {.divergence = 1, .answers_only = true}},
      {"mixed",
       {.hidden = 0.7 * 0.3, .last_layer = true, .divergence = 0.7 * 0.7, .cross_entropy = 0.3}},
      {"ce", {.cross_entropy = 1}}};
  const auto found = presets.find(name);
  if (found != presets.end()) return found->second;
  return absl::InvalidArgumentError(
      absl::StrCat("loss mode: must be mse_hidden, kl_logits, kl_output_only, mixed or ce, is \"",
                   std::string(name), "\""));
}

template <typename T>
double normalised_difference(const Rows<T>& student, const Rows<T>& teacher, double weight,
                             Rows<T>* gradient) {
  const auto cols = static_cast<double>(student.cols);
  const double count = static_cast<double>(student.rows) * cols;
  double sum = 0;
  std::vector<double> normalised(static_cast<size_t>(student.cols));
  std::vector<double> out(static_cast<size_t>(student.cols));  // gradient of the normalised row
  for (int64_t r = 0; r < student.rows; ++r) {
    const Moments of_student = moments(student.row(r), student.cols);
    const Moments of_teacher = moments(teacher.row(r), student.cols);
    double mean = 0;   // of the gradient
    double along = 0;  // mean of gradient · normalised
    for (int64_t c = 0; c < student.cols; ++c) {
      normalised[c] = (student.row(r)[c] - of_student.mean) * of_student.inverse_deviation;
      const double wanted = (teacher.row(r)[c] - of_teacher.mean) * of_teacher.inverse_deviation;
      sum += (normalised[c] - wanted) * (normalised[c] - wanted);
      out[c] = 2 * weight * (normalised[c] - wanted) / count;
      mean += out[c] / cols;
      along += out[c] * normalised[c] / cols;
    }
    if (gradient == nullptr) continue;
    for (int64_t c = 0; c < student.cols; ++c) {
      gradient->row(r)[c] +=
          static_cast<T>(of_student.inverse_deviation * (out[c] - mean - normalised[c] * along));
    }
  }
  return sum / count;
}

template <typename T>
LogitLosses logit_losses(const Rows<T>& student, const Rows<T>& teacher,
                         const FrozenMatrix<T>& head, double logits_divisor,
                         std::span<const int32_t> targets, const LossSettings& settings,
                         Rows<T>* gradient) {
  RowLosses<T> losses(settings, targets);
  for (int64_t begin = 0; begin < student.rows; begin += kRowsAtOnce) {
    const int64_t count = std::min(kRowsAtOnce, student.rows - begin);
    const auto logits_of = [&](const Rows<T>& rows) {
      Rows<T> logits = head.apply(rows_of(rows.row(begin), count, rows.cols));
      for (T& logit : logits.values) logit /= static_cast<T>(logits_divisor);
      return logits;
    };
    Rows<T> logits = logits_of(student);
    const Rows<T> wanted = settings.divergence != 0 ? logits_of(teacher) : logits;
    for (int64_t r = 0; r < count; ++r) {
      losses.take(begin + r, logits.row(r), wanted.row(r), logits.cols);
    }
    if (gradient == nullptr) continue;
    const Rows<T> rows = head.apply_transposed(logits);
    for (int64_t i = 0; i < count * student.cols; ++i) {
      gradient->row(begin)[i] += rows.values[i] / static_cast<T>(logits_divisor);
    }
  }
  return losses.losses();
}

template double normalised_difference(const Rows<float>&, const Rows<float>&, double, Rows<float>*);
template double normalised_difference(const Rows<double>&, const Rows<double>&, double,
                                      Rows<double>*);
template LogitLosses logit_losses(const Rows<float>&, const Rows<float>&,
                                  const FrozenMatrix<float>&, double, std::span<const int32_t>,
                                  const LossSettings&, Rows<float>*);
template LogitLosses logit_losses(const Rows<double>&, const Rows<double>&,
                                  const FrozenMatrix<double>&, double, std::span<const int32_t>,
                                  const LossSettings&, Rows<double>*);

}  // namespace kascade::training
