// Tests what stands around the text of requests when tokenizer_config.json asks for BOS and EOS.
#include "server/core/tokens.h"

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "engine/engine.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/core/prompt.h"
#include "server/core/request_guard.h"
#include "server/core/scoring_request.h"
#include "tests/support/engine_client.h"
#include "tests/support/tiny_model.h"

namespace kascade::testing {
namespace {

using core::TextToScore;
using ::testing::ElementsAre;

class TokensTest : public ::testing::Test {
 protected:
  TokensTest() { write_tiny_model({}, dir_.path()); }

  void open(bool add_bos, bool add_eos) {
    const nlohmann::json config = {{"tokenizer_class", "LlamaTokenizer"},
                                   {"bos_token", "<|bos|>"},
                                   {"eos_token", "<|eos|>"},
                                   {"add_bos_token", add_bos},
                                   {"add_eos_token", add_eos}};
    write_file(dir_ / "tokenizer_config.json", config.dump());
    EngineOptions options;
    options.model_directory = dir_.path();
    options.backend = "reference";
    options.threads = 1;
    engine_ = make_engine(options);
  }
  std::vector<Token> tokenized(const core::PromptOptions& options = {}) {
    const std::vector<std::string_view> texts = {"ab"};
    const auto out = core::tokenize(
        *engine_, {.texts = texts, .options = options, .details = true, .max_reply_bytes = 1 << 20},
        guard_);
    EXPECT_TRUE(out.ok()) << out.status();
    if (!out.ok()) return {};
    // The text is known although the tokens around it are not in it.
    EXPECT_EQ(out->front().offsets.size(), out->front().tokens.size());
    return out->front().tokens;
  }

  TempDir dir_;
  metrics::ServerMetrics metrics_;
  core::MemoryBudget memory_{int64_t{1} << 28, metrics_};
  core::RequestGuard guard_{memory_};
  std::unique_ptr<Engine> engine_;
};

TEST_F(TokensTest, ACompleteTextGetsBoth) {
  open(/*add_bos=*/true, /*add_eos=*/true);
  EXPECT_THAT(tokenized(), ElementsAre(kTinyBos, 'a', 'b', kTinyEos));
  EXPECT_THAT(tokenized({.add_bos = true}), ElementsAre(kTinyBos, 'a', 'b', kTinyEos));
  EXPECT_THAT(tokenized({.add_bos = false}), ElementsAre('a', 'b'));
  open(/*add_bos=*/false, /*add_eos=*/true);
  EXPECT_THAT(tokenized(), ElementsAre('a', 'b', kTinyEos));
  open(/*add_bos=*/true, /*add_eos=*/false);
  EXPECT_THAT(tokenized(), ElementsAre(kTinyBos, 'a', 'b'));
  open(/*add_bos=*/false, /*add_eos=*/false);
  EXPECT_THAT(tokenized(), ElementsAre('a', 'b'));
}

TEST_F(TokensTest, APromptIsToBeContinued) {
  open(/*add_bos=*/true, /*add_eos=*/true);
  const auto prompt =
      core::encode_prompt(core::TextPrompt{"ab"}, {}, *engine_, guard_, std::nullopt);
  ASSERT_TRUE(prompt.ok()) << prompt.status();
  EXPECT_THAT(prompt->tokens, ElementsAre(kTinyBos, 'a', 'b'));
}

TEST_F(TokensTest, AScoredTextEndsAndItsContextDoesNot) {
  open(/*add_bos=*/true, /*add_eos=*/true);
  const core::Schedules schedules(*engine_, "");
  core::ScoringRequest request;
  request.inputs = {TextToScore{.text = "b", .context = "a"}};
  const auto prepared = core::prepare(request, *engine_, schedules, guard_);
  ASSERT_TRUE(prepared.ok()) << prepared.status();
  EXPECT_THAT(prepared->inputs.front().tokens, ElementsAre(kTinyBos, 'a', 'b', kTinyEos));
  EXPECT_EQ(prepared->inputs.front().first_scored, 2);
}

}  // namespace
}  // namespace kascade::testing
