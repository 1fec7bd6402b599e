// The quality check of schedules: its rows, and what each of them sees.
#include "engine/calibration/quality_check.h"

#include <algorithm>
#include <atomic>
#include <memory>
#include <numeric>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "engine/calibration/calibration.h"
#include "engine/calibration/pass_keys.h"
#include "engine/calibration/window_runs.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/engine_client.h"
#include "tests/support/shared_data.h"

namespace kascade::testing {
namespace {

constexpr auto kNoProgress = [](int64_t /*tokens*/) {};

class DemoQualityTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    EngineOptions options;
    options.model_directory = demo_model();
    options.max_sequences = 8;
    options.max_batch_tokens = 520;
    engine_ = make_engine(options);
    text_ = tokens_of(read_file(demo_model() / "evaluation.txt").substr(0, 40000));
  }
  static void TearDownTestSuite() { engine_ = nullptr; }
  static std::vector<Token> tokens_of(const std::string& text) {
    return engine_->tokenizer().encode(text, {.add_special_tokens = false}).value();
  }

  static std::unique_ptr<Engine> engine_;
  static std::vector<Token> text_;
  std::atomic<bool> stop_ = false;
  WindowRuns runs_{*engine_, stop_};
};
std::unique_ptr<Engine> DemoQualityTest::engine_;
std::vector<Token> DemoQualityTest::text_;

// All layers but layer 0 select.
std::shared_ptr<Schedule> all_select(const Engine& engine) {
  std::vector<int32_t> anchors(static_cast<size_t>(engine.model().layers) - 1);
  std::iota(anchors.begin(), anchors.end(), 1);
  return make_schedule(engine, anchors, {.min_keys = 16});
}

// Layers 10 to 12, in which the bundled model looks for pass keys, reuse what layer 7 selects; the
// other layers are dense.
std::shared_ptr<Schedule> planted(const Engine& engine) {
  std::shared_ptr<Schedule> schedule = all_select(engine);
  for (int32_t layer = 1; layer < engine.model().layers; ++layer) {
    LayerSchedule& entry = schedule->layers[static_cast<size_t>(layer)];
    entry.role = layer == 7 ? Role::kAnchor : Role::kDense;
    if (layer < 10 || layer > 12) continue;
    entry.role = Role::kReuse;
    entry.anchor = 7;
  }
  seal(*schedule);
  return schedule;
}

class DemoPanelTest : public DemoQualityTest {
 protected:
  QualityPanel panel(const std::vector<std::pair<std::string, std::vector<Token>>>& kinds) const {
    CalibrationTexts texts{.texts = {text_}};
    for (const auto& [kind, text] : kinds) {
      texts.held_out.push_back(text);
      texts.held_out_kinds.push_back(kind);
    }
    auto windows = held_out_windows(split(texts, kWindow, true),
                                    {.selection = {.min_keys = 16},
                                     .window_tokens = kWindow,
                                     .context = engine_->model().context,
                                     .prefix = engine_->tokenizer().prefix_tokens()},
                                    {});
    EXPECT_TRUE(windows.ok()) << windows.status();
    return {.kinds = *std::move(windows),
            .window_rows = kWindow,
            .vocab = engine_->model().vocab,
            .max_degradation_percent = 100};
  }
  std::vector<QuestionsOfLength> questions(int64_t tokens) const {
    return pass_key_questions(engine_->tokenizer(), text_,
                              {.most_tokens = kWindow, .tokens = tokens})
        .value();
  }
  QualityRecord check(const QualityPanel& panel, const std::shared_ptr<const Schedule>& schedule) {
    const auto result = QualityCheck(runs_, panel).check(schedule, kNoProgress);
    EXPECT_TRUE(result.ok()) << result.status();
    return result.ok() ? result->quality : QualityRecord{};
  }

  static constexpr int32_t kWindow = 1024;
};

// A schedule whose perplexity passes, but which loses the keys that dense attention finds.
TEST_F(DemoPanelTest, ABadScheduleFailsThoughItsPerplexityPasses) {
  QualityPanel panel = this->panel({{"book", {text_.begin(), text_.begin() + 3 * kWindow}}});
  panel.questions = questions(12 * kWindow);
  panel.max_degradation_percent = 4;
  const QualityRecord good = check(panel, all_select(*engine_));
  ASSERT_EQ(good.retrieval.size(), 1u);
  EXPECT_TRUE(good.passed);
  EXPECT_EQ(good.retrieval[0].asked, 12);
  EXPECT_GE(good.retrieval[0].sparse_found, 11);
  const QualityRecord bad = check(panel, planted(*engine_));
  ASSERT_EQ(bad.retrieval.size(), 1u);
  EXPECT_TRUE(bad.kinds.at(0).passed);
  EXPECT_GE(bad.retrieval[0].dense_found, 11);
  EXPECT_LE(bad.retrieval[0].sparse_found, 9);
  EXPECT_EQ(bad.retrieval[0].lost, bad.retrieval[0].dense_found - bad.retrieval[0].sparse_found);
  EXPECT_FALSE(bad.retrieval[0].passed);
  EXPECT_FALSE(bad.passed);
  panel.questions.clear();  // so it would pass if only its perplexity counted
  EXPECT_TRUE(check(panel, planted(*engine_)).passed);
}

TEST_F(DemoPanelTest, TheWorstKindOfTextDecides) {
  const std::vector<Token> code =
      tokens_of(read_file(source_folder() / "engine" / "calibration" / "windows.cc"));
  QualityPanel panel = this->panel({{"book", {text_.begin(), text_.begin() + 3 * kWindow}},
                                    {"code", {code.begin(), code.begin() + 2 * kWindow}}});
  const QualityRecord all = check(panel, planted(*engine_));
  ASSERT_EQ(all.kinds.size(), 2u);
  EXPECT_EQ(all.kinds[0].kind, "book");
  EXPECT_EQ(all.kinds[1].windows, 2);
  EXPECT_EQ(all.tokens, all.kinds[0].tokens + all.kinds[1].tokens);
  EXPECT_EQ(all.checked_tokens, kWindow);
  EXPECT_TRUE(all.passed);
  const auto risen = [](const auto& row) {
    return row.degradation_percent + *std::optional<double>(row.degradation_error_percent);
  };
  const double worst = std::max(risen(all.kinds[0]), risen(all.kinds[1]));
  ASSERT_GT(worst, risen(all) + 0.01);
  panel.max_degradation_percent = (worst + risen(all)) / 2;
  panel.questions = questions(4 * kWindow);
  const QualityRecord limited = check(panel, planted(*engine_));
  EXPECT_LT(risen(limited), limited.max_degradation_percent);
  EXPECT_NE(limited.kinds.at(0).passed, limited.kinds.at(1).passed);
  EXPECT_FALSE(limited.passed);
  EXPECT_TRUE(limited.retrieval.empty());  // nothing is asked where the perplexity decided
}

// Where dense attention does not find the keys, sparse attention is not blamed.
TEST_F(DemoPanelTest, WhatDenseAttentionDoesNotFindCannotBeMeasured) {
  QualityPanel panel = this->panel({{"book", {text_.begin(), text_.begin() + 2 * kWindow}}});
  panel.questions = questions(4 * kWindow);
  for (Question& question : panel.questions.at(0).questions) {
    std::ranges::reverse(question.tokens.begin() + question.answer_begin + 1,
                         question.tokens.end());
  }
  const QualityRecord quality = check(panel, all_select(*engine_));
  ASSERT_EQ(quality.retrieval.size(), 1u);
  EXPECT_FALSE(quality.retrieval[0].measurable);
  EXPECT_TRUE(quality.retrieval[0].passed);
  EXPECT_TRUE(quality.passed);
}

// A question counts as answered where greedy decoding writes the answer.
TEST_F(DemoPanelTest, AnswersAreThoseOfGreedyDecoding) {
  const auto schedule = planted(*engine_);
  const auto all = questions(6 * kWindow);
  const std::vector<Question>& asked = all.at(0).questions;
  for (const AttentionChoice& attention :
       {AttentionChoice(DenseAttention{}), AttentionChoice(ScheduledAttention{schedule})}) {
    const auto answered = runs_.ask(attention, asked, kNoProgress);
    ASSERT_TRUE(answered.ok()) << answered.status();
    for (size_t i = 0; i < asked.size(); ++i) {
      const auto split = asked[i].tokens.begin() + asked[i].answer_begin;
      const std::vector<Token> answer(split, asked[i].tokens.end());
      const Reply reply =
          run(*engine_, {.tokens = {asked[i].tokens.begin(), split},
                         .task = Generate{.sampling = {.temperature = 0},
                                          .max_new_tokens = static_cast<int32_t>(answer.size())},
                         .attention = attention});
      EXPECT_EQ((*answered)[i], reply.ids() == answer) << i;
    }
  }
}

// What dense attention answers is asked once; every check reports its own tokens.
TEST_F(DemoPanelTest, ProgressReachesTheTokensOfTheCheck) {
  QualityPanel panel = this->panel({{"book", {text_.begin(), text_.begin() + kWindow}}});
  panel.questions = questions(4 * kWindow);
  const int64_t windows = count_tokens(panel.kinds), asked = count_tokens(panel.questions);
  QualityCheck check(runs_, panel);
  for (const int64_t tokens : {3 * windows + 2 * asked, 3 * windows + asked}) {
    EXPECT_EQ(check.tokens(), tokens);
    int64_t last = 0;
    const auto result = check.check(all_select(*engine_), [&](int64_t done) {
      EXPECT_GE(done, last);
      last = done;
    });
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_LE(last, tokens);
    EXPECT_GT(last, tokens - 16);  // the last token of a window is not fed
  }
}

}  // namespace
}  // namespace kascade::testing
