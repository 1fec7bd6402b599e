// Tests models that have a sliding window of their own: dense attention is attention within the
// window, and sparse attention is for texts that fit into it.
#include <memory>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/engine_client.h"
#include "tests/support/tiny_model.h"

namespace kascade::testing {
namespace {

using ::testing::HasSubstr;

constexpr int32_t kWindow = 40;

class ModelWindow : public ::testing::TestWithParam<std::string> {
 protected:
  std::unique_ptr<Engine> engine(const TinyModel& model) const {
    TempDir dir;
    EngineOptions options;
    options.model_directory = write_tiny_model(model, dir.path());
    options.backend = GetParam();
    options.weights = "f32";
    options.max_sequences = 4;
    options.max_batch_tokens = 260;
    return make_engine(options);
  }
  std::unique_ptr<Engine> windowed() const {
    return engine({.model_type = "mistral", .sliding_window = kWindow, .peaked = true});
  }
  // The same weights without a window.
  std::unique_ptr<Engine> plain() const {
    return engine({.model_type = "mistral", .peaked = true});
  }
  static Request scoring(int32_t tokens) {
    return {.tokens = random_tokens(tokens, 256, 5), .task = Score{}};
  }
  static std::vector<float> logprobs(const Reply& reply) {
    std::vector<float> result;
    for (const ScoredToken& token : reply.tokens) result.push_back(token.logprob);
    return result;
  }
};

TEST_P(ModelWindow, DenseAttentionIsTheWindowBaseline) {
  Request request = scoring(300);  // in two steps, the second of which begins far from the start
  const auto within = logprobs(run(*windowed(), request));
  ASSERT_EQ(within.size(), 299u);
  const auto full = logprobs(run(*plain(), request));
  request.attention = dense_within(kWindow);
  EXPECT_EQ(logprobs(run(*plain(), request)), within);
  EXPECT_NE(full, within);
  // Up to the window nothing is left out; the order of sums differs.
  for (int32_t row = 0; row < kWindow; ++row) EXPECT_NEAR(full[row], within[row], 1e-4) << row;
}

TEST_P(ModelWindow, GenerationStaysWithinTheWindow) {
  Request request{.tokens = random_tokens(70, 256, 6), .task = Generate{.max_new_tokens = 60}};
  const auto within = run(*windowed(), request).ids();
  ASSERT_EQ(within.size(), 60u);
  request.attention = dense_within(kWindow);
  EXPECT_EQ(run(*plain(), request).ids(), within);
}

TEST_P(ModelWindow, ATextThatFitsIsComputedAsWithoutWindow) {
  const auto model = windowed();
  EXPECT_EQ(model->model().sliding_window, kWindow);
  Request request = scoring(kWindow + 1);
  EXPECT_EQ(logprobs(run(*model, request)), logprobs(run(*plain(), request)));
  request.attention = BaselineAttention{.min_keys = 8};
  EXPECT_EQ(logprobs(run(*model, request)), logprobs(run(*plain(), request)));
  request.tokens.push_back(1);
  const auto refused = model->submit(request, [](const Event&) {});
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(refused.status().message()),
              HasSubstr("attention: the model has a sliding window of 40 tokens"));
}

INSTANTIATE_TEST_SUITE_P(Backends, ModelWindow, ::testing::Values("reference", "cpu"));

}  // namespace
}  // namespace kascade::testing
