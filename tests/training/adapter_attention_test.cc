#include "engine/training/adapter_attention.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "engine/training/block_selection.h"

namespace kascade::training {
namespace {

using Matrix = Rows<double>;

struct Case {
  std::string name;
  AdapterShape shape;
  AdapterOptions options;
  int64_t tokens = 23;
};

void fill(std::vector<double>& values, std::mt19937& random, double deviation) {
  std::normal_distribution<double> normal(0, deviation);
  for (double& value : values) value = normal(random);
}

// An adapter with random parameters on random rows of a frozen layer.
class Adapter {
 public:
  explicit Adapter(const Case& test_case)
      : shape_(test_case.shape),
        products_(make_plain_products()),
        attention_(test_case.shape, test_case.options, 1 / std::sqrt(shape_.head_dim), *products_),
        rotation_(test_case.tokens, std::vector<double>{1.0, 0.1}, 1.0) {
    std::mt19937 random(7);
    parameters_.resize(attention_.layout().size);
    fill(parameters_, random, 0.5);
    const auto rows = [&](int64_t cols) {
      Matrix matrix(test_case.tokens, cols);
      fill(matrix.values, random, 1);
      return matrix;
    };
    in_ = {rows(shape_.hidden), rows(shape_.q_dim()), rows(shape_.kv_dim()), rows(shape_.kv_dim())};
    weight_ = rows(shape_.q_dim());
  }

  AdapterActivations<double> forward() const {
    return attention_.forward(parameters_.data(), in_, rotation_);
  }
  double loss() const {
    const Matrix out = forward().out;
    double sum = 0;
    for (size_t i = 0; i < out.values.size(); ++i) sum += out.values[i] * weight_.values[i];
    return sum;
  }
  // Gradients of loss() with respect to the parameters and the inputs.
  std::vector<double> backward(AttentionRows<double>& in_gradient) const {
    std::vector<double> gradient(parameters_.size());
    const auto zeros = [](const Matrix& like) { return Matrix(like.rows, like.cols); };
    in_gradient = {zeros(in_.hidden), zeros(in_.queries), zeros(in_.keys), zeros(in_.values)};
    attention_.backward(parameters_.data(), in_, rotation_, forward(), weight_, gradient.data(),
                        in_gradient);
    return gradient;
  }

  const LayerParameters& layout() const { return attention_.layout(); }
  std::vector<double>& parameters() { return parameters_; }
  AttentionRows<double>& in() { return in_; }
  const Rotation<double>& rotation() const { return rotation_; }

 private:
  AdapterShape shape_;
  std::unique_ptr<Products<double>> products_;
  AdapterAttention<double> attention_;
  Rotation<double> rotation_;
  std::vector<double> parameters_;
  AttentionRows<double> in_;
  Matrix weight_;
};

AdapterOptions small_options() {
  AdapterOptions options;
  options.compress_block = options.compress_stride = 4;
  options.selection_block = 4;
  options.selected_blocks = 3;
  options.window = 5;
  return options;
}

AdapterShape shape_with(int32_t heads, int32_t kv_heads) {
  return {.layers = 1, .hidden = 6, .heads = heads, .kv_heads = kv_heads, .head_dim = 4};
}

std::vector<Case> cases() {
  std::vector<Case> all;
  const auto add = [&](std::string name, AdapterShape shape,
                       const std::function<void(AdapterOptions&)>& change, int64_t tokens = 23) {
    AdapterOptions options = small_options();
    change(options);
    EXPECT_TRUE(validate(options).ok()) << name << ": " << validate(options);
    all.push_back({std::move(name), shape, options, tokens});
  };
  add("max_mlp", shape_with(4, 2), [](AdapterOptions&) {});
  add("mlp_max_overlapping", shape_with(2, 2), [](AdapterOptions& o) {
    o.key_compressor = Compressor::kMlp;
    o.value_compressor = Compressor::kMax;
    o.compress_stride = 2;
  });
  add("mean_mean_softmax", shape_with(4, 1), [](AdapterOptions& o) {
    o.key_compressor = o.value_compressor = Compressor::kMean;
    o.gate = GateFunction::kSoftmax;
    o.memory_slots = 2;
    o.selection_block = 8;
  });
  add("shared_bias_norm", shape_with(4, 2), [](AdapterOptions& o) {
    o.key_compressor = Compressor::kMlp;
    o.shared_mlp = o.shared_positions = o.mlp_bias = o.compressor_norm = true;
    o.mlp_expansion = 0.5;
    o.compress_stride = 1;
  });
  add("no_memory_own_window", shape_with(3, 3), [](AdapterOptions& o) {
    o.memory_slots = 0;
    o.sees_own_window = true;
    o.compressor_norm = true;
    o.first_blocks = 1;
    o.local_blocks = 2;
  });
  add("shorter_than_a_window", shape_with(4, 2), [](AdapterOptions&) {}, 3);
  return all;
}

class AdapterAttentionTest : public ::testing::TestWithParam<Case> {};
INSTANTIATE_TEST_SUITE_P(Options, AdapterAttentionTest, ::testing::ValuesIn(cases()),
                         [](const auto& test) { return test.param.name; });

// Compares each gradient with the difference of the loss around the value.
void expect_gradients(const Adapter& adapter, std::vector<double>& values,
                      const std::vector<double>& gradients, const std::string& name) {
  double largest = 1;
  for (const double gradient : gradients) largest = std::max(largest, std::abs(gradient));
  for (size_t i = 0; i < values.size(); ++i) {
    constexpr double kStep = 1e-5;
    const double value = values[i];
    values[i] = value + kStep;
    const double above = adapter.loss();
    values[i] = value - kStep;
    const double below = adapter.loss();
    values[i] = value;
    ASSERT_NEAR(gradients[i], (above - below) / (2 * kStep), 1e-6 * largest) << name << " " << i;
  }
}

TEST_P(AdapterAttentionTest, GradientsAreDifferencesOfTheLoss) {
  Adapter adapter(GetParam());
  AttentionRows<double> in_gradient;
  const std::vector<double> gradient = adapter.backward(in_gradient);
  expect_gradients(adapter, adapter.parameters(), gradient, "parameters");
  AttentionRows<double>& in = adapter.in();
  expect_gradients(adapter, in.hidden.values, in_gradient.hidden.values, "hidden");
  expect_gradients(adapter, in.queries.values, in_gradient.queries.values, "queries");
  expect_gradients(adapter, in.keys.values, in_gradient.keys.values, "keys");
  expect_gradients(adapter, in.values.values, in_gradient.values.values, "values");
}

// Every tensor takes part: none has only zero gradients, unless the text is too short for a window.
TEST_P(AdapterAttentionTest, EveryTensorHasAGradient) {
  Adapter adapter(GetParam());
  if (GetParam().tokens < GetParam().options.compress_block) return;
  AttentionRows<double> in_gradient;
  const std::vector<double> gradient = adapter.backward(in_gradient);
  for (const AdapterTensor* tensor : adapter.layout().present()) {
    const auto* begin = gradient.data() + tensor->offset;
    EXPECT_TRUE(std::any_of(begin, begin + tensor->size(), [](double g) { return g != 0; }))
        << tensor->name;
  }
}

TEST_P(AdapterAttentionTest, LaterTokensChangeNothing) {
  Adapter adapter(GetParam());
  const Matrix before = adapter.forward().out;
  const int64_t changed = before.rows / 2;
  AttentionRows<double>& in = adapter.in();
  for (Matrix* rows : {&in.hidden, &in.queries, &in.keys, &in.values}) {
    for (int64_t t = changed; t < rows->rows; ++t) {
      for (int64_t c = 0; c < rows->cols; ++c) rows->row(t)[c] += 3;
    }
  }
  const Matrix after = adapter.forward().out;
  for (int64_t i = 0; i < changed * before.cols; ++i) {
    ASSERT_EQ(before.values[i], after.values[i]) << "row " << i / before.cols;
  }
  EXPECT_NE(before.values.back(), after.values.back());
}

// With a gate that takes the window alone and a window as long as the text, the branch is the
// model's own attention.
TEST(AdapterAttention, AWindowAsLongAsTheTextIsDenseAttention) {
  Case dense{"", shape_with(4, 2), small_options()};
  dense.options.window = 64;
  dense.options.gate = GateFunction::kSoftmax;
  Adapter adapter(dense);
  const LayerParameters& layout = adapter.layout();
  std::fill_n(adapter.parameters().begin() + layout.gate_weight.offset, layout.gate_weight.size(),
              0.0);
  for (int64_t i = 0; i < layout.gate_bias.size(); ++i) {
    adapter.parameters()[layout.gate_bias.offset + i] = i % kBranches == 2 ? 50 : -50;
  }
  const AdapterActivations<double> result = adapter.forward();
  Matrix queries = adapter.in().queries;
  Matrix keys = adapter.in().keys;
  adapter.rotation().apply(queries);
  adapter.rotation().apply(keys);
  for (int64_t t = 0; t < queries.rows; ++t) {
    for (int32_t h = 0; h < 4; ++h) {
      double sum = 0;
      std::vector<double> out(4);
      for (int64_t k = 0; k <= t; ++k) {
        double logit = 0;
        for (int c = 0; c < 4; ++c) logit += queries.row(t)[h * 4 + c] * keys.row(k)[h / 2 * 4 + c];
        const double p = std::exp(logit / 2);
        sum += p;
        for (int c = 0; c < 4; ++c) out[c] += p * adapter.in().values.row(k)[h / 2 * 4 + c];
      }
      for (int c = 0; c < 4; ++c) {
        ASSERT_NEAR(result.out.row(t)[h * 4 + c], out[c] / sum, 1e-12) << t << " " << h;
      }
    }
  }
}

TEST(BlockSelection, ImportanceCountsTheSharedStrides) {
  AdapterOptions options;
  options.compress_block = 32;
  options.compress_stride = 16;
  options.selection_block = 64;
  // Windows 0 … 8 have the probabilities 1, 10, 100, …; block 1 shares strides with 3 … 7.
  std::vector<double> probabilities;
  for (double p = 1; probabilities.size() < 9; p *= 10) probabilities.push_back(p);
  const std::vector<double> importance = block_importance(options, 191, probabilities);
  EXPECT_EQ(importance, (std::vector<double>{1222, 12221000, 2.1e8}));
}

TEST(BlockSelection, ForcedBlocksComeFirst) {
  AdapterOptions options;
  options.selected_blocks = 4;
  options.first_blocks = 1;
  options.local_blocks = 2;
  EXPECT_EQ(select_blocks(options, std::vector<double>{0, 3, 7, 7, 0, 0}),
            (std::vector<int32_t>{0, 2, 4, 5}));
  EXPECT_EQ(select_blocks(options, std::vector<double>{5, 3}), (std::vector<int32_t>{0, 1}));
}

TEST(BlockSelection, TheKeysReadAreThoseThatAreListed) {
  AdapterOptions options;
  options.compress_block = 8;
  options.compress_stride = 4;
  options.selection_block = 8;
  options.selected_blocks = 3;
  options.window = 10;
  std::mt19937 random(1);
  std::vector<int32_t> tokens;
  for (int64_t position = 0; position < 70; ++position) {
    std::vector<double> importance(static_cast<size_t>(position / 8 + 1));
    for (double& value : importance) value = std::uniform_real_distribution<>()(random);
    const auto keys = keys_read(options, position);
    EXPECT_EQ(keys[0], options.memory_slots + visible_windows(options, position));
    tokens_of_blocks(options, select_blocks(options, importance), position, tokens);
    EXPECT_EQ(keys[1], std::ssize(tokens)) << position;
    tokens_of_window(options, position, tokens);
    EXPECT_EQ(keys[2], std::ssize(tokens)) << position;
  }
}

}  // namespace
}  // namespace kascade::training
