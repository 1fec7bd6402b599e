#include "engine/training/adapter_attention.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <span>
#include <utility>

#include "engine/training/block_selection.h"
#include "engine/training/key_list.h"
#include "engine/training/parallel.h"

namespace kascade::training {
namespace {

constexpr int index_of(Branch branch) { return static_cast<int>(branch); }

// The columns of one KV head of all tokens.
template <typename T>
KeyRows<const T> head_rows(const Rows<T>& keys, const Rows<T>& values, int32_t kv_head,
                           int32_t head_dim) {
  const int64_t column = int64_t{kv_head} * head_dim;
  return {keys.values.data() + column, values.values.data() + column, keys.cols};
}
template <typename T>
KeyRows<T> head_gradients(Rows<T>& keys, Rows<T>& values, int32_t kv_head, int32_t head_dim) {
  const int64_t column = int64_t{kv_head} * head_dim;
  return {keys.values.data() + column, values.values.data() + column, keys.cols};
}

// The memory slots and windows that a row sees: the first rows of the coarse keys.
std::span<const int32_t> seen(const AdapterOptions& options, int64_t position,
                              std::vector<int32_t>& indices) {
  indices.resize(options.memory_slots + visible_windows(options, position));
  std::iota(indices.begin(), indices.end(), 0);
  return indices;
}

// The gate's function, in place: the values of a head lie side by side.
template <typename T>
void apply_gate(GateFunction gate, T* head) {
  if (gate == GateFunction::kSigmoid) {
    for (int b = 0; b < kBranches; ++b) head[b] = T{1} / (T{1} + std::exp(-head[b]));
    return;
  }
  const T largest = *std::max_element(head, head + kBranches);
  T sum{};
  for (int b = 0; b < kBranches; ++b) sum += head[b] = std::exp(head[b] - largest);
  for (int b = 0; b < kBranches; ++b) head[b] /= sum;
}

// Turns the gradient of a head's gates into that of what the gate's function was applied to.
template <typename T>
void gate_backward(GateFunction gate, const T* values, T* gradient) {
  T mean{};
  if (gate == GateFunction::kSoftmax) {
    for (int b = 0; b < kBranches; ++b) mean += values[b] * gradient[b];
  }
  for (int b = 0; b < kBranches; ++b) {
    gradient[b] = gate == GateFunction::kSigmoid ? gradient[b] * values[b] * (T{1} - values[b])
                                                 : values[b] * (gradient[b] - mean);
  }
}

}  // namespace

template <typename T>
AdapterAttention<T>::AdapterAttention(const AdapterShape& shape, const AdapterOptions& options,
                                      double scale, Products<T>& products)
    : shape_(shape),
      options_(options),
      layout_(layer_parameters(shape, options)),
      scale_(static_cast<T>(scale)),
      products_(products) {}

template <typename T>
CompressorPlan AdapterAttention<T>::key_plan() const {
  return {options_.key_compressor, &layout_.keys, &options_, shape_.head_dim};
}
template <typename T>
CompressorPlan AdapterAttention<T>::value_plan() const {
  return {options_.value_compressor, &layout_.values, &options_, shape_.head_dim};
}

template <typename T>
int64_t AdapterAttention<T>::memory_offset(int32_t kind, int32_t kv_head) const {
  return layout_.memory.offset +
         (int64_t{kind} * shape_.kv_heads + kv_head) * options_.memory_slots * shape_.head_dim;
}

template <typename T>
Rows<T> AdapterAttention<T>::compressed_rows(const T* parameters, int32_t kind, int32_t kv_head,
                                             const CompressedHead<T>& compressed) const {
  Rows<T> rows(options_.memory_slots + compressed.out.rows, shape_.head_dim);
  std::copy_n(parameters + memory_offset(kind, kv_head),
              int64_t{options_.memory_slots} * shape_.head_dim, rows.values.begin());
  std::copy(compressed.out.values.begin(), compressed.out.values.end(),
            rows.row(options_.memory_slots));
  return rows;
}

template <typename T>
Rows<T> AdapterAttention<T>::gates(const T* parameters, const Rows<T>& hidden) const {
  const int64_t count = layout_.gate_bias.size();
  Rows<T> gates =
      products_.times(hidden, rows_of(parameters + layout_.gate_weight.offset, count, hidden.cols));
  for (int64_t t = 0; t < gates.rows; ++t) {
    T* row = gates.row(t);
    add_to(std::span(parameters + layout_.gate_bias.offset, static_cast<size_t>(count)), row);
    for (int32_t h = 0; h < shape_.heads; ++h) apply_gate(options_.gate, row + h * kBranches);
  }
  return gates;
}

template <typename T>
AdapterActivations<T> AdapterAttention<T>::forward(const T* parameters, const AttentionRows<T>& in,
                                                   const Rotation<T>& rotation) const {
  const int64_t tokens = in.queries.rows;
  AdapterActivations<T> result;
  result.queries = in.queries;
  result.keys = in.keys;
  rotation.apply(result.queries);
  rotation.apply(result.keys);
  for (int32_t g = 0; g < shape_.kv_heads; ++g) {
    result.compressed_keys.push_back(compress(key_plan(), parameters, in.keys, g, products_));
    result.compressed_values.push_back(compress(value_plan(), parameters, in.values, g, products_));
    result.coarse_keys.push_back(compressed_rows(parameters, 0, g, result.compressed_keys.back()));
    result.coarse_values.push_back(
        compressed_rows(parameters, 1, g, result.compressed_values.back()));
  }
  result.selected.resize(shape_.kv_heads * tokens);
  for (Rows<T>& branch : result.branches) branch = Rows<T>(tokens, shape_.q_dim());
  for_each_in_parallel(shape_.kv_heads,
                       [&](int64_t g) { forward_head(static_cast<int32_t>(g), in, result); });

  result.gates = gates(parameters, in.hidden);
  result.out = Rows<T>(tokens, shape_.q_dim());
  for (int64_t t = 0; t < tokens; ++t) {
    for (int32_t h = 0; h < shape_.heads; ++h) {
      const int32_t column = h * shape_.head_dim;
      for (int b = 0; b < kBranches; ++b) {
        add_scaled(result.branches[b].row(t) + column, result.gates.row(t)[h * kBranches + b],
                   shape_.head_dim, result.out.row(t) + column);
      }
    }
  }
  return result;
}

template <typename T>
void AdapterAttention<T>::forward_head(int32_t kv_head, const AttentionRows<T>& in,
                                       AdapterActivations<T>& activations) const {
  const int32_t dim = shape_.head_dim;
  const auto coarse =
      head_rows(activations.coarse_keys[kv_head], activations.coarse_values[kv_head], 0, dim);
  const auto tokens = head_rows(activations.keys, in.values, kv_head, dim);
  std::vector<int32_t> chosen;
  std::vector<T> probabilities;
  for (int64_t t = 0; t < in.queries.rows; ++t) {
    const int32_t first = kv_head * shape_.group();
    const auto attend_heads = [&](Branch branch, const Rows<T>& queries,
                                  const KeyRows<const T>& rows, auto after) {
      for (int32_t h = first; h < first + shape_.group(); ++h) {
        probabilities_of(queries.row(t) + h * dim, rows, chosen, dim, scale_, probabilities);
        attend(rows, chosen, probabilities, dim,
               activations.branches[index_of(branch)].row(t) + h * dim);
        after();
      }
    };
    seen(options_, t, chosen);
    std::vector<T> window_probabilities(chosen.size() - options_.memory_slots);
    attend_heads(Branch::kCompressed, in.queries, coarse, [&] {
      add_to(std::span<const T>(probabilities).subspan(options_.memory_slots),
             window_probabilities.data());
    });
    std::vector<int32_t>& blocks = activations.selected[kv_head * in.queries.rows + t];
    blocks = select_blocks(options_, block_importance(options_, t, window_probabilities));
    tokens_of_blocks(options_, blocks, t, chosen);
    attend_heads(Branch::kSelected, activations.queries, tokens, [] {});
    tokens_of_window(options_, t, chosen);
    attend_heads(Branch::kWindow, activations.queries, tokens, [] {});
  }
}

// Gradients between the gates and the inputs. No two KV heads write the same part of one.
template <typename T>
struct AdapterAttention<T>::Gradients {
  std::array<Rows<T>, kBranches> branches{};  // [tokens, heads · head_dim]
  Rows<T> queries{};                          // rotated
  Rows<T> keys{};                             // rotated
  Rows<T> raw_queries{};
  Rows<T> values{};
  std::vector<Rows<T>> coarse_keys{};  // [kv_heads]
  std::vector<Rows<T>> coarse_values{};
};

template <typename T>
auto AdapterAttention<T>::backward_gates(const T* parameters, const AttentionRows<T>& in,
                                         const AdapterActivations<T>& activations,
                                         const Rows<T>& out_gradient, T* parameter_gradient,
                                         AttentionRows<T>& in_gradient) const -> Gradients {
  const int64_t tokens = in.queries.rows;
  const int32_t dim = shape_.head_dim;
  Gradients result;
  for (Rows<T>& branch : result.branches) branch = Rows<T>(tokens, shape_.q_dim());
  Rows<T> gate_gradient(tokens, activations.gates.cols);
  for (int64_t t = 0; t < tokens; ++t) {
    for (int32_t h = 0; h < shape_.heads; ++h) {
      const T* out = out_gradient.row(t) + h * dim;
      const T* gates = activations.gates.row(t) + h * kBranches;
      T* gradient = gate_gradient.row(t) + h * kBranches;
      for (int b = 0; b < kBranches; ++b) {
        gradient[b] = dot(activations.branches[b].row(t) + h * dim, out, dim);
        add_scaled(out, gates[b], dim, result.branches[b].row(t) + h * dim);
      }
      gate_backward(options_.gate, gates, gradient);
    }
    add_to(std::span<const T>(gate_gradient.row(t), gate_gradient.cols),
           parameter_gradient + layout_.gate_bias.offset);
  }
  const Rows<T> weight_gradient = products_.times(transposed(gate_gradient), transposed(in.hidden));
  add_to(std::span<const T>(weight_gradient.values),
         parameter_gradient + layout_.gate_weight.offset);
  const Rows<T> weight =
      rows_of(parameters + layout_.gate_weight.offset, gate_gradient.cols, in.hidden.cols);
  const Rows<T> hidden_gradient = products_.times(gate_gradient, transposed(weight));
  add_to(std::span<const T>(hidden_gradient.values), in_gradient.hidden.values.data());
  return result;
}

template <typename T>
void AdapterAttention<T>::backward(const T* parameters, const AttentionRows<T>& in,
                                   const Rotation<T>& rotation,
                                   const AdapterActivations<T>& activations,
                                   const Rows<T>& out_gradient, T* parameter_gradient,
                                   AttentionRows<T>& in_gradient) const {
  const int64_t tokens = in.queries.rows;
  Gradients gradients =
      backward_gates(parameters, in, activations, out_gradient, parameter_gradient, in_gradient);
  gradients.queries = gradients.raw_queries = Rows<T>(tokens, shape_.q_dim());
  gradients.keys = gradients.values = Rows<T>(tokens, shape_.kv_dim());
  for (int32_t g = 0; g < shape_.kv_heads; ++g) {
    const Rows<T> empty(activations.coarse_keys[g].rows, shape_.head_dim);
    gradients.coarse_keys.push_back(empty);
    gradients.coarse_values.push_back(empty);
  }
  for_each_in_parallel(shape_.kv_heads, [&](int64_t g) {
    backward_head(static_cast<int32_t>(g), in, activations, gradients);
  });

  rotation.apply_transposed(gradients.queries);
  rotation.apply_transposed(gradients.keys);
  for (const Rows<T>* queries : {&gradients.queries, &gradients.raw_queries}) {
    add_to(std::span<const T>(queries->values), in_gradient.queries.values.data());
  }
  add_to(std::span<const T>(gradients.keys.values), in_gradient.keys.values.data());
  add_to(std::span<const T>(gradients.values.values), in_gradient.values.values.data());
  for (int32_t g = 0; g < shape_.kv_heads; ++g) {
    backward_coarse(parameters, g, activations, gradients, parameter_gradient, in_gradient);
  }
}

template <typename T>
void AdapterAttention<T>::backward_head(int32_t kv_head, const AttentionRows<T>& in,
                                        const AdapterActivations<T>& activations,
                                        Gradients& gradients) const {
  const int32_t dim = shape_.head_dim;
  const auto coarse =
      head_rows(activations.coarse_keys[kv_head], activations.coarse_values[kv_head], 0, dim);
  const auto coarse_gradients =
      head_gradients(gradients.coarse_keys[kv_head], gradients.coarse_values[kv_head], 0, dim);
  const auto tokens = head_rows(activations.keys, in.values, kv_head, dim);
  const auto token_gradients = head_gradients(gradients.keys, gradients.values, kv_head, dim);
  std::vector<int32_t> chosen;
  std::vector<T> probabilities;
  for (int64_t t = 0; t < in.queries.rows; ++t) {
    const int32_t first = kv_head * shape_.group();
    const auto backward_heads = [&](Branch branch, const Rows<T>& queries,
                                    const KeyRows<const T>& rows, Rows<T>& query_gradients,
                                    const KeyRows<T>& row_gradients) {
      for (int32_t h = first; h < first + shape_.group(); ++h) {
        const T* query = queries.row(t) + h * dim;
        probabilities_of(query, rows, chosen, dim, scale_, probabilities);
        attend_backward(query, rows, chosen, probabilities,
                        gradients.branches[index_of(branch)].row(t) + h * dim, dim, scale_,
                        query_gradients.row(t) + h * dim, row_gradients);
      }
    };
    seen(options_, t, chosen);
    backward_heads(Branch::kCompressed, in.queries, coarse, gradients.raw_queries,
                   coarse_gradients);
    tokens_of_blocks(options_, activations.selected[kv_head * in.queries.rows + t], t, chosen);
    backward_heads(Branch::kSelected, activations.queries, tokens, gradients.queries,
                   token_gradients);
    tokens_of_window(options_, t, chosen);
    backward_heads(Branch::kWindow, activations.queries, tokens, gradients.queries,
                   token_gradients);
  }
}

template <typename T>
void AdapterAttention<T>::backward_coarse(const T* parameters, int32_t kv_head,
                                          const AdapterActivations<T>& activations,
                                          const Gradients& gradients, T* parameter_gradient,
                                          AttentionRows<T>& in_gradient) const {
  const int64_t slots = int64_t{options_.memory_slots} * shape_.head_dim;
  const auto take = [&](int32_t kind, const CompressorPlan& plan,
                        const CompressedHead<T>& compressed, const Rows<T>& coarse,
                        Rows<T>& rows_gradient) {
    add_to(std::span<const T>(coarse.values).first(slots),
           parameter_gradient + memory_offset(kind, kv_head));
    const Rows<T> windows =
        rows_of(coarse.row(options_.memory_slots), compressed.out.rows, int64_t{shape_.head_dim});
    compress_backward(plan, parameters, compressed, windows, kv_head, products_, parameter_gradient,
                      rows_gradient);
  };
  take(0, key_plan(), activations.compressed_keys[kv_head], gradients.coarse_keys[kv_head],
       in_gradient.keys);
  take(1, value_plan(), activations.compressed_values[kv_head], gradients.coarse_values[kv_head],
       in_gradient.values);
}

template class AdapterAttention<float>;
template class AdapterAttention<double>;

}  // namespace kascade::training
