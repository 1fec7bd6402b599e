#include "engine/training/student.h"

#include <algorithm>
#include <cmath>
#include <random>

#include "engine/model/rope.h"
#include "engine/training/dense_attention.h"
#include "engine/training/row_operations.h"

namespace kascade::training {
namespace {

template <typename T>
Stream<T> zeros_like(const Stream<T>& stream) {
  Stream<T> result;
  for (const Rows<T>& rows : stream) result.emplace_back(rows.rows, rows.cols);
  return result;
}

// Random values of mean 0 for a matrix whose rows have as many inputs as its last dimension.
template <typename T>
void draw(const AdapterTensor& tensor, std::mt19937_64& random, T* layer) {
  if (!tensor.present()) return;
  // A uniform distribution written out, because the standard library's may differ elsewhere.
  const double bound = std::sqrt(3.0 / static_cast<double>(tensor.shape.back()));
  for (int64_t i = 0; i < tensor.size(); ++i) {
    const double unit = static_cast<double>(random() >> 11) * 0x1p-53;  // [0, 1)
    layer[tensor.offset + i] = static_cast<T>(bound * (2 * unit - 1));
  }
}

template <typename T>
void set(const AdapterTensor& tensor, const std::vector<T>& values, T* layer) {
  for (int64_t i = 0; i < tensor.size(); ++i) {
    layer[tensor.offset + i] = values[static_cast<size_t>(i) % values.size()];
  }
}

}  // namespace

template <typename T>
Student<T>::Student(const ModelConfig& config, const Checkpoint& checkpoint,
                    const AdapterOptions& options, Products<T>& products)
    : config_(config),
      products_(products),
      frequencies_(rope_frequencies(config)),
      embedding_(values_of<T>(checkpoint.embedding)),
      norm_(values_of<T>(checkpoint.norm)),
      head_(values_of<T>(checkpoint.head), products),
      attention_(adapter_shape(config), options, attention_scale(config), products) {
  for (const LayerTensors& tensors : checkpoint.layers) {
    layers_.emplace_back(config, tensors, products);
  }
}

template <typename T>
std::vector<T> Student<T>::initial_parameters(uint64_t seed) const {
  const LayerParameters& layout = attention_.layout();
  const auto& start = attention_.options().gate_start;
  std::mt19937_64 random(seed);
  std::vector<T> parameters(static_cast<size_t>(size()));
  for (int32_t layer = 0; layer < config_.layers; ++layer) {
    T* values = parameters.data() + layer * layer_size();
    for (const CompressorTensors* compressor : {&layout.keys, &layout.values}) {
      draw(compressor->hidden_weight, random, values);
      draw(compressor->out_weight, random, values);
      set<T>(compressor->norm, {T{1}}, values);
    }
    set<T>(layout.gate_bias,
           {static_cast<T>(start[0]), static_cast<T>(start[1]), static_cast<T>(start[2])}, values);
    if (layout.output.present()) set(layout.output, layers_[layer].output_weight().values, values);
    if (layout.projections.present()) {
      set(layout.projections, layers_[layer].projection_weight().values, values);
    }
  }
  return parameters;
}

template <typename T>
Rotation<T> Student<T>::rotation_for(int64_t tokens) const {
  return Rotation<T>(tokens, frequencies_, rope_magnitude(config_));
}

template <typename T>
Rows<T> Student<T>::embed(std::span<const int32_t> tokens) const {
  Rows<T> x(static_cast<int64_t>(tokens.size()), config_.hidden);
  for (int64_t t = 0; t < x.rows; ++t) {
    std::copy_n(embedding_.row(tokens[t]), config_.hidden, x.row(t));
  }
  for (T& value : x.values) value *= static_cast<T>(config_.embedding_multiplier);
  return x;
}

template <typename T>
Rows<T> Student<T>::dense_output(int32_t layer, const Rows<T>& x,
                                 const Rotation<T>& rotation) const {
  const FrozenLayer<T>& frozen = layers_[layer];
  return frozen.output(dense_attention(attention_.shape(), attention_scale(config_),
                                       frozen.project(frozen.normed(x)), rotation));
}

template <typename T>
Stream<T> Student<T>::dense_stream(std::span<const int32_t> tokens) const {
  const Rotation<T> rotation = rotation_for(static_cast<int64_t>(tokens.size()));
  Stream<T> stream{embed(tokens)};
  for (int32_t layer = 0; layer < config_.layers; ++layer) {
    FeedForward<T> unused;
    stream.push_back(
        layers_[layer].finish(stream.back(), dense_output(layer, stream.back(), rotation), unused));
  }
  return stream;
}

template <typename T>
Stream<T> Student<T>::adapted_stream(std::span<const int32_t> tokens, const T* parameters) const {
  const Rotation<T> rotation = rotation_for(static_cast<int64_t>(tokens.size()));
  Stream<T> stream{embed(tokens)};
  for (int32_t layer = 0; layer < config_.layers; ++layer) {
    stream.push_back(
        adapted(layer).forward(stream.back(), parameters + layer * layer_size(), rotation));
  }
  return stream;
}

template <typename T>
double Student<T>::layer_loss(int32_t layer, const Rows<T>& x, const T* layer_parameters,
                              T* gradient) const {
  const Rotation<T> rotation = rotation_for(x.rows);
  const Rows<T> wanted = dense_output(layer, x, rotation);
  const AdaptedLayer<T> student = adapted(layer);
  const auto attention = student.attend(x, layer_parameters, rotation);
  double squares = 0;
  for (const T value : wanted.values) squares += double{value} * value;
  squares = std::max(squares, 1e-30);
  double sum = 0;
  Rows<T> output_gradient(x.rows, x.cols);
  for (size_t i = 0; i < wanted.values.size(); ++i) {
    const double difference = double{attention.output.values[i]} - wanted.values[i];
    sum += difference * difference;
    output_gradient.values[i] = static_cast<T>(2 * difference / squares);
  }
  if (gradient != nullptr) {
    student.attend_backward(attention, layer_parameters, rotation, output_gradient, gradient);
  }
  return sum / squares;
}

template <typename T>
double Student<T>::hidden_loss(const Stream<T>& student, const Stream<T>& teacher,
                               const LossSettings& settings, Stream<T>* gradients) const {
  const size_t last = student.size() - 1;
  const size_t first = settings.last_layer ? last : 1;
  const auto count = static_cast<double>(last - first + 1);
  double sum = 0;
  for (size_t i = first; i <= last; ++i) {
    sum += normalised_difference(student[i], teacher[i], settings.hidden / count,
                                 gradients != nullptr ? &(*gradients)[i] : nullptr);
  }
  return sum / count;
}

template <typename T>
LogitLosses Student<T>::head_loss(const Rows<T>& student, const Rows<T>& teacher,
                                  std::span<const int32_t> targets, const LossSettings& settings,
                                  Rows<T>* gradient) const {
  const auto normed = [&](const Rows<T>& rows) {
    return rms_norm(rows, norm_.values.data(), config_.norm_eps);
  };
  Rows<T> normed_gradient(student.rows, student.cols);
  const LogitLosses losses =
      logit_losses(normed(student), normed(teacher), head_, config_.logits_divisor, targets,
                   settings, gradient != nullptr ? &normed_gradient : nullptr);
  if (gradient != nullptr) {
    rms_norm_backward(student, norm_.values.data(), config_.norm_eps, normed_gradient, *gradient);
  }
  return losses;
}

template <typename T>
double Student<T>::cross_entropy(const Stream<T>& stream, std::span<const int32_t> targets) const {
  const LossSettings settings{.cross_entropy = 1};
  return head_loss(stream.back(), stream.back(), targets, settings, nullptr).cross_entropy;
}

template <typename T>
TextLoss Student<T>::text_loss(std::span<const int32_t> tokens, const Stream<T>& teacher,
                               std::span<const int32_t> targets, const LossSettings& settings,
                               const T* parameters, T* gradient) const {
  const Stream<T> stream = adapted_stream(tokens, parameters);
  Stream<T> gradients = gradient != nullptr ? zeros_like(stream) : Stream<T>{};
  Stream<T>* wanted = gradient != nullptr ? &gradients : nullptr;
  TextLoss result;
  if (settings.hidden != 0) result.hidden = hidden_loss(stream, teacher, settings, wanted);
  if (settings.uses_logits()) {
    const LogitLosses logits = head_loss(stream.back(), teacher.back(), targets, settings,
                                         wanted != nullptr ? &gradients.back() : nullptr);
    result.divergence = logits.divergence;
    result.cross_entropy = logits.cross_entropy;
  }
  result.loss = settings.hidden * result.hidden + settings.divergence * result.divergence +
                settings.cross_entropy * result.cross_entropy;
  if (gradient == nullptr) return result;
  const Rotation<T> rotation = rotation_for(static_cast<int64_t>(tokens.size()));
  for (int32_t layer = config_.layers - 1; layer >= 0; --layer) {
    const int64_t offset = layer * layer_size();
    const Rows<T> x_gradient = adapted(layer).backward(stream[layer], parameters + offset, rotation,
                                                       gradients[layer + 1], gradient + offset);
    add_rows(x_gradient, gradients[layer]);
  }
  return result;
}

template <typename T>
std::array<double, kBranches> Student<T>::branch_weights(const Stream<T>& stream,
                                                         const T* parameters) const {
  std::array<double, kBranches> sums{};
  int64_t count = 0;
  for (int32_t layer = 0; layer < config_.layers; ++layer) {
    const Rows<T> gates =
        attention_.gates(parameters + layer * layer_size(), layers_[layer].normed(stream[layer]));
    for (size_t i = 0; i < gates.values.size(); ++i) sums[i % kBranches] += gates.values[i];
    count += static_cast<int64_t>(gates.values.size()) / kBranches;
  }
  for (double& sum : sums) sum /= static_cast<double>(count);
  return sums;
}

template class Student<float>;
template class Student<double>;

}  // namespace kascade::training
