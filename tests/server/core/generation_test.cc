// Tests generation through the server's core without gRPC or HTTP: the order of the calls to a
// sink, text, ends and refusals.
#include "server/core/generation.h"

#include <memory>
#include <string>
#include <vector>

#include "engine/base/clock.h"
#include "engine/base/refusal.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/core_fixture.h"

namespace kascade::testing {
namespace {

using core::GenerationEnd;
using core::GenerationRequest;
using core::NamedSchedule;
using core::TextPrompt;
using core::TokenPrompt;
using ::testing::ElementsAre;

// Gathers what a generation gives.
class Recorder : public core::GenerationSink {
 public:
  Recorder(core::ServerContext& context) : generation_(context, *this, steady_now()) {}

  void started(const core::GenerationStarted& started) override {
    calls.emplace_back("started");
    prompt.assign(started.prompt_tokens.begin(), started.prompt_tokens.end());
    seed = started.seed;
    max_new_tokens = started.max_new_tokens;
    schedule = schedule_of(started.attention).get();
  }
  void delta(core::GenerationDelta delta) override {
    if (calls.back() != "delta") calls.emplace_back("delta");
    text += delta.text;
    for (const ScoredToken& token : delta.tokens) tokens.push_back(token.token);
  }
  void finished(const core::GenerationFinished& finished) override {
    calls.emplace_back("finished");
    end = finished.end;
    stop_string = finished.stop_string.value_or("");
    generated = finished.generated_tokens;
    counts = finished.counts;
  }
  void ended(const absl::Status& end_status) override {
    calls.emplace_back("ended");
    end_.end(end_status);
  }

  static std::shared_ptr<Recorder> run(core::ServerContext& context, GenerationRequest request) {
    auto recorder = std::make_shared<Recorder>(context);
    recorder->generation_.start(std::move(request), recorder);
    recorder->status = recorder->end_.wait();
    return recorder;
  }

  std::vector<std::string> calls;
  std::vector<Token> prompt, tokens;
  std::string text, stop_string;
  uint64_t seed = 0;
  int32_t max_new_tokens = 0, generated = 0;
  const Schedule* schedule = nullptr;
  GenerationEnd end = GenerationEnd::kMaxNewTokens;
  AttentionCounts counts{};
  absl::Status status;

 private:
  core::Generation generation_;
  AwaitedEnd end_;
};

class GenerationTest : public CoreTest {
 protected:
  std::shared_ptr<Recorder> run(GenerationRequest request) {
    return Recorder::run(*context_, std::move(request));
  }
  static GenerationRequest greedy(std::string_view text, int32_t tokens) {
    GenerationRequest request{.prompt = TextPrompt{text}, .max_new_tokens = tokens};
    request.sampling.temperature = 0;
    request.ignore_eos = true;
    return request;
  }
  void expect_refused(GenerationRequest request, const std::string& field,
                      const std::string& reason) {
    const auto recorder = run(std::move(request));
    EXPECT_THAT(recorder->calls, ElementsAre("ended"));
    const Refusal refusal = refusal_of(recorder->status).value_or(Refusal{});
    EXPECT_EQ(refusal.field, field) << recorder->status;
    EXPECT_EQ(refusal.reason, reason) << recorder->status;
  }
};

TEST_F(GenerationTest, GivesTheTextOfItsTokensInOrder) {
  const auto out = run(greedy("in the", 24));
  EXPECT_TRUE(out->status.ok()) << out->status;
  EXPECT_THAT(out->calls, ElementsAre("started", "delta", "finished", "ended"));
  EXPECT_EQ(out->prompt.front(), kTinyBos);
  EXPECT_EQ(out->max_new_tokens, 24);
  EXPECT_EQ(out->generated, 24);
  EXPECT_EQ(out->end, GenerationEnd::kMaxNewTokens);
  EXPECT_EQ(out->schedule, nullptr);
  EXPECT_EQ(out->counts.attended, out->counts.causal);
  const auto text = engine_->tokenizer().decode(out->tokens, /*skip_special=*/true);
  ASSERT_TRUE(text.ok());
  EXPECT_EQ(out->text, *text);
}

TEST_F(GenerationTest, TheSeedThatIsToldGivesTheSameAgain) {
  GenerationRequest request = greedy("on the", 16);
  request.sampling.temperature = 1.5;
  const auto first = run(request);
  request.seed = first->seed;
  EXPECT_EQ(run(request)->tokens, first->tokens);
}

TEST_F(GenerationTest, AStopStringEndsTheTextBeforeIt) {
  GenerationRequest request = greedy("in the", 40);
  for (Token byte = 128; byte < 256; ++byte) request.sampling.logit_bias.emplace_back(byte, -100);
  const auto all = run(request);
  ASSERT_GT(all->text.size(), 12u);
  const std::string stop = all->text.substr(6, 3);
  request.stop_strings = {stop};
  const auto cut = run(request);
  EXPECT_TRUE(cut->status.ok()) << cut->status;
  EXPECT_EQ(cut->end, GenerationEnd::kStopString);
  EXPECT_EQ(cut->stop_string, stop);
  EXPECT_EQ(cut->text, all->text.substr(0, all->text.find(stop)));
  EXPECT_LT(cut->generated, 40);
}

TEST_F(GenerationTest, StopTokensOfTheRequestAndOfTheModelAreToldApart) {
  GenerationRequest request = greedy("in the", 8);
  const auto all = run(request);
  request.stop_tokens = {all->tokens[3]};
  EXPECT_EQ(run(request)->end, GenerationEnd::kStopToken);
  request.stop_tokens = {};
  request.ignore_eos = false;
  request.sampling.logit_bias = {{kTinyEos, 100}};
  EXPECT_EQ(run(request)->end, GenerationEnd::kEosToken);
}

TEST_F(GenerationTest, AnUnsaidAttentionIsThatOfTheActiveSchedule) {
  const auto schedule = add_schedule({1});
  const auto other = add_schedule({2});
  ASSERT_TRUE(engine_->activate(schedule).ok());
  GenerationRequest request = greedy("in the", 2);
  EXPECT_EQ(run(request)->schedule, schedule.get());
  request.attention = DenseAttention{};
  EXPECT_EQ(run(request)->schedule, nullptr);
  request.attention = NamedSchedule{.id = other->schedule_id, .ratio = 0.5};
  EXPECT_EQ(run(request)->schedule, other.get());
}

TEST_F(GenerationTest, RefusesBeforeAnythingElseIsTold) {
  GenerationRequest request = greedy("in the", 0);
  expect_refused(request, "max_new_tokens", reason::kInvalidField);
  const std::vector<Token> unknown{1, 264};
  request = greedy("", 1);
  request.prompt = TokenPrompt{unknown};
  expect_refused(request, "tokens[1]", reason::kUnknownToken);
  const std::string text(600, 'x');
  expect_refused(greedy(text, 1), "tokens", reason::kTooLong);
  request = greedy("in the", 1);
  request.stop_strings = {""};
  expect_refused(request, "stop_strings[0]", reason::kInvalidField);
  request = greedy("in the", 1);
  request.attention = NamedSchedule{};
  expect_refused(request, "attention.schedule", reason::kNoSchedule);
  request.attention = NamedSchedule{.id = "none"};
  expect_refused(request, "", reason::kNotFound);
  EXPECT_EQ(engine_->stats().generated_tokens, 0);
}

}  // namespace
}  // namespace kascade::testing
