#include "engine/training/compressor.h"

#include <algorithm>
#include <span>
#include <utility>

#include "engine/training/row_operations.h"

namespace kascade::training {
namespace {

constexpr double kNormEps = 1e-6;

// The parameters of one head's part of a tensor; the heads share the part if there is only one.
int64_t part_of(const AdapterTensor& tensor, int32_t head) {
  const int64_t parts = tensor.shape[0];
  return tensor.offset + (parts == 1 ? 0 : head * (tensor.size() / parts));
}

template <typename T>
CompressedHead<T> take_largest(const CompressorPlan& plan, const T* parameters, const Rows<T>& rows,
                               int32_t head) {
  const AdapterOptions& options = *plan.options;
  const T* positions = parameters + part_of(plan.tensors->positions, head);
  CompressedHead<T> result;
  result.out = Rows<T>(windows_of(options, rows.rows), plan.head_dim);
  result.largest.resize(result.out.values.size());
  for (int64_t w = 0; w < result.out.rows; ++w) {
    for (int32_t c = 0; c < plan.head_dim; ++c) {
      int32_t best = 0;
      T largest{};
      for (int32_t place = 0; place < options.compress_block; ++place) {
        const T value = rows.row(w * options.compress_stride + place)[head * plan.head_dim + c] +
                        positions[place * plan.head_dim + c];
        if (place == 0 || value > largest) {
          largest = value;
          best = place;
        }
      }
      result.out.row(w)[c] = largest;
      result.largest[w * plan.head_dim + c] = best;
    }
  }
  return result;
}

template <typename T>
CompressedHead<T> take_mean(const CompressorPlan& plan, const T* parameters, const Rows<T>& rows,
                            int32_t head) {
  const AdapterOptions& options = *plan.options;
  const T* positions = parameters + part_of(plan.tensors->positions, head);
  CompressedHead<T> result;
  result.out = Rows<T>(windows_of(options, rows.rows), plan.head_dim);
  for (int64_t w = 0; w < result.out.rows; ++w) {
    for (int32_t place = 0; place < options.compress_block; ++place) {
      const T* row = rows.row(w * options.compress_stride + place) + head * plan.head_dim;
      for (int32_t c = 0; c < plan.head_dim; ++c) {
        result.out.row(w)[c] += (row[c] + positions[place * plan.head_dim + c]) /
                                static_cast<T>(options.compress_block);
      }
    }
  }
  return result;
}

template <typename T>
void add_bias(const AdapterTensor& bias, int32_t head, const T* parameters, Rows<T>& rows) {
  if (!bias.present()) return;
  for (int64_t r = 0; r < rows.rows; ++r) {
    add_to(std::span(parameters + part_of(bias, head), static_cast<size_t>(rows.cols)),
           rows.row(r));
  }
}

template <typename T>
CompressedHead<T> apply_network(const CompressorPlan& plan, const T* parameters,
                                const Rows<T>& rows, int32_t head, Products<T>& products) {
  const AdapterOptions& options = *plan.options;
  const CompressorTensors& tensors = *plan.tensors;
  const T* positions = parameters + part_of(tensors.positions, head);
  const int64_t inputs = int64_t{options.compress_block} * plan.head_dim;
  CompressedHead<T> result;
  result.inputs = Rows<T>(windows_of(options, rows.rows), inputs);
  for (int64_t w = 0; w < result.inputs.rows; ++w) {
    std::copy_n(positions, inputs, result.inputs.row(w));
    for (int32_t place = 0; place < options.compress_block; ++place) {
      const T* row = rows.row(w * options.compress_stride + place) + head * plan.head_dim;
      add_to(std::span(row, static_cast<size_t>(plan.head_dim)),
             result.inputs.row(w) + place * plan.head_dim);
    }
  }
  const Rows<T> hidden_weight =
      rows_of(parameters + part_of(tensors.hidden_weight, head), tensors.units(), inputs);
  result.units = products.times(result.inputs, hidden_weight);
  add_bias(tensors.hidden_bias, head, parameters, result.units);
  for (T& unit : result.units.values) unit = std::max(unit, T{0});
  const Rows<T> out_weight =
      rows_of(parameters + part_of(tensors.out_weight, head), plan.head_dim, tensors.units());
  result.out = products.times(result.units, out_weight);
  add_bias(tensors.out_bias, head, parameters, result.out);
  return result;
}

// The gradient of one window's place: of the position and of the token's row.
template <typename T>
struct PlaceGradients {
  const CompressorPlan& plan;
  int32_t head;
  T* positions;
  Rows<T>& rows;

  void add(int64_t window, int32_t place, int32_t column, T gradient) {
    positions[place * plan.head_dim + column] += gradient;
    rows.row(window * plan.options->compress_stride + place)[head * plan.head_dim + column] +=
        gradient;
  }
};

template <typename T>
void pool_backward(const CompressorPlan& plan, const CompressedHead<T>& compressed,
                   const Rows<T>& out_gradient, PlaceGradients<T>& gradients) {
  const int32_t block = plan.options->compress_block;
  for (int64_t w = 0; w < out_gradient.rows; ++w) {
    for (int32_t c = 0; c < plan.head_dim; ++c) {
      const T gradient = out_gradient.row(w)[c];
      if (plan.kind == Compressor::kMax) {
        gradients.add(w, compressed.largest[w * plan.head_dim + c], c, gradient);
        continue;
      }
      for (int32_t place = 0; place < block; ++place) {
        gradients.add(w, place, c, gradient / static_cast<T>(block));
      }
    }
  }
}

template <typename T>
void add_column_sums(const AdapterTensor& bias, int32_t head, const Rows<T>& rows, T* gradient) {
  if (!bias.present()) return;
  for (int64_t r = 0; r < rows.rows; ++r) {
    add_to(std::span(rows.row(r), static_cast<size_t>(rows.cols)), gradient + part_of(bias, head));
  }
}

template <typename T>
void network_backward(const CompressorPlan& plan, const T* parameters,
                      const CompressedHead<T>& compressed, const Rows<T>& out_gradient,
                      Products<T>& products, T* gradient, PlaceGradients<T>& places) {
  const CompressorTensors& tensors = *plan.tensors;
  const int32_t head = places.head;
  const int64_t units = tensors.units();
  const Rows<T> out_columns = transposed(out_gradient);
  const Rows<T> out_weight_gradient = products.times(out_columns, transposed(compressed.units));
  add_to(std::span<const T>(out_weight_gradient.values),
         gradient + part_of(tensors.out_weight, head));
  add_column_sums(tensors.out_bias, head, out_gradient, gradient);

  const Rows<T> out_weight =
      rows_of(parameters + part_of(tensors.out_weight, head), plan.head_dim, units);
  Rows<T> unit_gradient = products.times(out_gradient, transposed(out_weight));
  for (size_t i = 0; i < unit_gradient.values.size(); ++i) {
    if (compressed.units.values[i] <= 0) unit_gradient.values[i] = 0;
  }
  const Rows<T> hidden_gradient =
      products.times(transposed(unit_gradient), transposed(compressed.inputs));
  add_to(std::span<const T>(hidden_gradient.values),
         gradient + part_of(tensors.hidden_weight, head));
  add_column_sums(tensors.hidden_bias, head, unit_gradient, gradient);

  const Rows<T> hidden_weight =
      rows_of(parameters + part_of(tensors.hidden_weight, head), units, compressed.inputs.cols);
  const Rows<T> input_gradient = products.times(unit_gradient, transposed(hidden_weight));
  for (int64_t w = 0; w < input_gradient.rows; ++w) {
    for (int32_t place = 0; place < plan.options->compress_block; ++place) {
      for (int32_t c = 0; c < plan.head_dim; ++c) {
        places.add(w, place, c, input_gradient.row(w)[place * plan.head_dim + c]);
      }
    }
  }
}

}  // namespace

template <typename T>
CompressedHead<T> compress(const CompressorPlan& plan, const T* parameters, const Rows<T>& rows,
                           int32_t head, Products<T>& products) {
  CompressedHead<T> result;
  switch (plan.kind) {
    case Compressor::kMax:
      result = take_largest(plan, parameters, rows, head);
      break;
    case Compressor::kMean:
      result = take_mean(plan, parameters, rows, head);
      break;
    case Compressor::kMlp:
      result = apply_network(plan, parameters, rows, head, products);
      break;
  }
  const AdapterTensor& norm = plan.tensors->norm;
  if (norm.present()) {
    result.pooled = std::move(result.out);
    result.out = rms_norm(result.pooled, parameters + norm.offset, kNormEps);
  }
  return result;
}

template <typename T>
void compress_backward(const CompressorPlan& plan, const T* parameters,
                       const CompressedHead<T>& compressed, const Rows<T>& out_gradient,
                       int32_t head, Products<T>& products, T* parameter_gradient,
                       Rows<T>& rows_gradient) {
  const AdapterTensor& norm = plan.tensors->norm;
  Rows<T> pooled_gradient = out_gradient;
  if (norm.present()) {
    pooled_gradient = Rows<T>(out_gradient.rows, out_gradient.cols);
    rms_norm_backward(compressed.pooled, parameters + norm.offset, kNormEps, out_gradient,
                      pooled_gradient, parameter_gradient + norm.offset);
  }
  PlaceGradients<T> places{plan, head, parameter_gradient + part_of(plan.tensors->positions, head),
                           rows_gradient};
  if (plan.kind == Compressor::kMlp) {
    network_backward(plan, parameters, compressed, pooled_gradient, products, parameter_gradient,
                     places);
  } else {
    pool_backward(plan, compressed, pooled_gradient, places);
  }
}

template CompressedHead<float> compress(const CompressorPlan&, const float*, const Rows<float>&,
                                        int32_t, Products<float>&);
template CompressedHead<double> compress(const CompressorPlan&, const double*, const Rows<double>&,
                                         int32_t, Products<double>&);
template void compress_backward(const CompressorPlan&, const float*, const CompressedHead<float>&,
                                const Rows<float>&, int32_t, Products<float>&, float*,
                                Rows<float>&);
template void compress_backward(const CompressorPlan&, const double*, const CompressedHead<double>&,
                                const Rows<double>&, int32_t, Products<double>&, double*,
                                Rows<double>&);

}  // namespace kascade::training
