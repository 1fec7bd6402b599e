#include "engine/training/adapted_layer.h"

#include <algorithm>
#include <span>

namespace kascade::training {
namespace {

template <typename T>
Rows<T> columns(const Rows<T>& rows, int64_t begin, int64_t count) {
  Rows<T> result(rows.rows, count);
  for (int64_t r = 0; r < rows.rows; ++r) std::copy_n(rows.row(r) + begin, count, result.row(r));
  return result;
}

template <typename T>
Rows<T> side_by_side(std::initializer_list<const Rows<T>*> parts) {
  Rows<T> result((*parts.begin())->rows, 0);
  for (const Rows<T>* part : parts) result.cols += part->cols;
  result.values.resize(static_cast<size_t>(result.rows * result.cols));
  for (int64_t r = 0; r < result.rows; ++r) {
    T* to = result.row(r);
    for (const Rows<T>* part : parts) to = std::copy_n(part->row(r), part->cols, to);
  }
  return result;
}

}  // namespace

template <typename T>
AttentionRows<T> AdaptedLayer<T>::project(const Rows<T>& x, const T* parameters) const {
  const AdapterTensor& own = attention_->layout().projections;
  if (!own.present()) return frozen_->project(frozen_->normed(x));
  AttentionRows<T> result;
  result.hidden = frozen_->normed(x);
  const Rows<T> all = products_->times(result.hidden, own_weight(own, parameters));
  const int64_t queries = attention_->shape().q_dim();
  const int64_t keys = attention_->shape().kv_dim();
  result.queries = columns(all, 0, queries);
  result.keys = columns(all, queries, keys);
  result.values = columns(all, queries + keys, keys);
  return result;
}

template <typename T>
auto AdaptedLayer<T>::attend(const Rows<T>& x, const T* parameters,
                             const Rotation<T>& rotation) const -> Attention {
  Attention result;
  result.in = project(x, parameters);
  result.activations = attention_->forward(parameters, result.in, rotation);
  const AdapterTensor& own = attention_->layout().output;
  result.output = own.present()
                      ? products_->times(result.activations.out, own_weight(own, parameters))
                      : frozen_->output(result.activations.out);
  return result;
}

template <typename T>
void AdaptedLayer<T>::add_weight_gradient(const AdapterTensor& tensor, const Rows<T>& gradient,
                                          const Rows<T>& rows, T* parameter_gradient) const {
  const Rows<T> product = products_->times(transposed(gradient), transposed(rows));
  add_to(std::span<const T>(product.values), parameter_gradient + tensor.offset);
}

template <typename T>
AttentionRows<T> AdaptedLayer<T>::attend_backward(const Attention& attention, const T* parameters,
                                                  const Rotation<T>& rotation,
                                                  const Rows<T>& output_gradient,
                                                  T* parameter_gradient) const {
  const LayerParameters& layout = attention_->layout();
  Rows<T> out_gradient;
  if (layout.output.present()) {
    add_weight_gradient(layout.output, output_gradient, attention.activations.out,
                        parameter_gradient);
    out_gradient =
        products_->times(output_gradient, transposed(own_weight(layout.output, parameters)));
  } else {
    out_gradient = frozen_->output_backward(output_gradient);
  }
  const auto zeros = [](const Rows<T>& like) { return Rows<T>(like.rows, like.cols); };
  AttentionRows<T> gradients{zeros(attention.in.hidden), zeros(attention.in.queries),
                             zeros(attention.in.keys), zeros(attention.in.values)};
  attention_->backward(parameters, attention.in, rotation, attention.activations, out_gradient,
                       parameter_gradient, gradients);
  if (layout.projections.present()) {
    const Rows<T> all = side_by_side<T>({&gradients.queries, &gradients.keys, &gradients.values});
    add_weight_gradient(layout.projections, all, attention.in.hidden, parameter_gradient);
  }
  return gradients;
}

template <typename T>
Rows<T> AdaptedLayer<T>::forward(const Rows<T>& x, const T* parameters,
                                 const Rotation<T>& rotation) const {
  FeedForward<T> unused;
  return frozen_->finish(x, attend(x, parameters, rotation).output, unused);
}

template <typename T>
Rows<T> AdaptedLayer<T>::backward(const Rows<T>& x, const T* parameters,
                                  const Rotation<T>& rotation, const Rows<T>& gradient,
                                  T* parameter_gradient) const {
  const Attention attention = attend(x, parameters, rotation);
  FeedForward<T> activations;
  frozen_->finish(x, attention.output, activations);
  auto through = frozen_->finish_backward(activations, gradient);
  AttentionRows<T> gradients =
      attend_backward(attention, parameters, rotation, through.output, parameter_gradient);
  const AdapterTensor& own = attention_->layout().projections;
  if (own.present()) {
    const Rows<T> all = side_by_side<T>({&gradients.queries, &gradients.keys, &gradients.values});
    const Rows<T> hidden = products_->times(all, transposed(own_weight(own, parameters)));
    add_to(std::span<const T>(hidden.values), gradients.hidden.values.data());
  } else {
    frozen_->project_backward(gradients);
  }
  frozen_->normed_backward(x, gradients.hidden, through.x);
  return through.x;
}

template class AdaptedLayer<float>;
template class AdaptedLayer<double>;

}  // namespace kascade::training
