// Tests inputs that come in pieces: whatever the pieces, the tokens, windows and counts are those
// of the whole texts; memory; and what is refused.
#include "server/core/streamed_inputs.h"

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/core/scoring_request.h"
#include "tests/support/core_fixture.h"

namespace kascade::testing {
namespace {

using core::EncodedText;
using core::InputPiece;
using core::ScoringRequest;
using core::StreamedInputs;
using core::TextToScore;
using core::TokensToScore;
using ::testing::HasSubstr;

constexpr int64_t kPiece = 4096;
constexpr char kText[] =
    "the thin \u4e2d\u6587 lines\n in 12 345 the\tother's \U0001f600 corner  \u0436\u0438 end\n";

class StreamedInputsTest : public CoreTest {
 protected:
  std::unique_ptr<StreamedInputs> begun(size_t encoded_at_once, core::PromptOptions options = {}) {
    auto inputs = std::make_unique<StreamedInputs>(*engine_, memory_, kPiece, encoded_at_once);
    EXPECT_TRUE(inputs->begin(options, absl::InfiniteFuture()).ok());
    return inputs;
  }
  core::PreparedScoring prepared(const std::vector<core::ScoreInput>& list,
                                 core::PromptOptions options = {}) {
    ScoringRequest request;
    request.inputs = list;
    request.prompt_options = options;
    core::RequestGuard guard(memory_);
    auto result = core::prepare(request, *engine_, *schedules_, guard);
    EXPECT_TRUE(result.ok()) << result.status();
    return result.ok() ? *std::move(result) : core::PreparedScoring{};
  }
  void expect_same(const StreamedInputs& inputs, const std::vector<core::ScoreInput>& whole,
                   core::PromptOptions options = {}) {
    const auto streamed = prepared(inputs.inputs(), options);
    const auto unary = prepared(whole, options);
    ASSERT_EQ(streamed.inputs.size(), unary.inputs.size());
    for (size_t i = 0; i < unary.inputs.size(); ++i) {
      const core::ScoreSequence& a = streamed.inputs[i];
      const core::ScoreSequence& b = unary.inputs[i];
      EXPECT_EQ(a.tokens, b.tokens);
      EXPECT_EQ(a.windows, b.windows);
      EXPECT_EQ(a.first_scored, b.first_scored);
      EXPECT_EQ(a.begins_with_bos, b.begins_with_bos);
      EXPECT_EQ(a.words_scored, b.words_scored);
      EXPECT_EQ(a.bytes_scored, b.bytes_scored);
    }
  }
};

InputPiece text_piece(std::string_view text, int32_t input = 0) {
  return {.input = input, .content = text};
}

TEST_F(StreamedInputsTest, EverySplitOfATextGivesTheTokensOfTheWhole) {
  const std::string text = kText;
  for (const size_t encoded_at_once : {size_t{1}, core::kEncodedAtOnceBytes}) {
    for (size_t at = 1; at < text.size(); ++at) {
      const auto inputs = begun(encoded_at_once);
      ASSERT_TRUE(inputs->add(text_piece(std::string_view(text).substr(0, at))).ok()) << at;
      ASSERT_TRUE(inputs->add(text_piece(std::string_view(text).substr(at))).ok()) << at;
      ASSERT_TRUE(inputs->end().ok());
      EXPECT_EQ(std::holds_alternative<EncodedText>(inputs->inputs()[0]), encoded_at_once == 1);
      expect_same(*inputs, {TextToScore{.text = text}});
    }
  }
}

TEST_F(StreamedInputsTest, BytesOneByOneGiveTheTokensOfTheWholeTexts) {
  const std::string text = kText;
  const std::string special = "<|bos|>the thin lines\n in the other corner";
  for (const auto& options : {core::PromptOptions{}, core::PromptOptions{.add_bos = false},
                              core::PromptOptions{.add_bos = true, .parse_special_tokens = true}}) {
    const auto inputs = begun(/*encoded_at_once=*/1, options);
    int32_t index = 0;
    for (const std::string& each : {text, special}) {
      for (size_t i = 0; i < each.size(); ++i) {
        ASSERT_TRUE(inputs->make_room().ok());
        ASSERT_TRUE(inputs->add(text_piece(std::string_view(each).substr(i, 1), index)).ok());
      }
      ++index;
    }
    ASSERT_TRUE(inputs->end().ok());
    expect_same(*inputs, {TextToScore{.text = text}, TextToScore{.text = special}}, options);
  }
}

TEST_F(StreamedInputsTest, ContextsAndIdsAreThoseOfTheWholeInputs) {
  const std::vector<Token> ids = {116, 104, 101, 32, 116, 104, 105, 110};
  const auto inputs = begun(1);
  InputPiece first = text_piece("the thin ");
  first.context = "a context ";
  ASSERT_TRUE(inputs->add(first).ok());
  ASSERT_TRUE(inputs->add(text_piece("lines in")).ok());
  const std::span<const Token> all(ids);
  ASSERT_TRUE(
      inputs->add({.input = 1, .content = all.first(3), .context_tokens = int32_t{2}}).ok());
  ASSERT_TRUE(inputs->add({.input = 1, .content = all.subspan(3)}).ok());
  ASSERT_TRUE(inputs->end().ok());
  expect_same(*inputs, {TextToScore{.text = "the thin lines in", .context = "a context "},
                        TokensToScore{.tokens = ids, .context_tokens = 2}});
}

TEST_F(StreamedInputsTest, MemoryIsThatOfTheTokensAndIsGivenBack) {
  const std::string piece = long_text(kPiece);
  {
    const auto inputs = begun(/*encoded_at_once=*/1);
    for (int i = 0; i < 64; ++i) {
      ASSERT_TRUE(inputs->make_room().ok());
      ASSERT_TRUE(inputs->add(text_piece(piece)).ok());
    }
    ASSERT_TRUE(inputs->end().ok());
    size_t tokens = 0;
    const auto list = inputs->inputs();
    for (const auto& part : std::get<EncodedText>(list[0]).parts) tokens += part.size();
    const auto held = static_cast<int64_t>(tokens * sizeof(Token));
    EXPECT_GT(memory_.used(), held);
    EXPECT_LT(memory_.used(), held + 16 * kPiece);
    inputs->release();
    EXPECT_EQ(memory_.used(), 0);
  }
  EXPECT_EQ(memory_.used(), 0);
}

TEST_F(StreamedInputsTest, ManyShortInputsTakeLittle) {
  const std::string line = long_text(40);
  const std::vector<Token> ids(10, 7);
  const auto inputs = begun(core::kEncodedAtOnceBytes);
  for (int32_t i = 0; i < core::kMaxTexts; ++i) {
    ASSERT_TRUE(inputs->make_room().ok());
    const InputPiece piece =
        i % 2 == 0 ? text_piece(line, i) : InputPiece{.input = i, .content = std::span(ids)};
    ASSERT_TRUE(inputs->add(piece).ok());
  }
  ASSERT_TRUE(inputs->end().ok());
  EXPECT_LT(memory_.used(), core::kMaxTexts * 1024);
  EXPECT_TRUE(absl::IsInvalidArgument(
      inputs->add(text_piece(line, static_cast<int32_t>(core::kMaxTexts)))));
}

TEST_F(StreamedInputsTest, RoomIsRefusedWhileOthersHoldTheMemory) {
  core::MemoryBudget small(int64_t{64} << 10, metrics_);
  StreamedInputs inputs(*engine_, small, kPiece);
  ASSERT_TRUE(inputs.begin({}, absl::InfiniteFuture()).ok());
  core::MemoryBudget::Reservation other(small);
  ASSERT_TRUE(other.resize(56 << 10).ok());
  EXPECT_TRUE(absl::IsResourceExhausted(inputs.make_room()));
  ASSERT_TRUE(other.resize(0).ok());
  EXPECT_TRUE(inputs.make_room().ok());
  const std::string word(kPiece, 'x');  // no place to cut it
  absl::Status status;
  for (int i = 0; i < 32 && status.ok(); ++i) {
    ASSERT_TRUE(inputs.add(text_piece(word)).ok());
    status = inputs.make_room();
  }
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
}

struct Refused {
  std::vector<InputPiece> pieces;
  std::string field, message;
};

TEST_F(StreamedInputsTest, RefusesPiecesByTheFieldAtFault) {
  const std::string large(kPiece + 1, 'x');
  const std::vector<Token> ids(kPiece / 4 + 1, 7);
  const std::span<const Token> few(ids.data(), 2);
  InputPiece with_context = text_piece("b");
  with_context.context = "a";
  const std::vector<Refused> cases = {
      {{text_piece("a", 1)}, "piece.input_index", "must be 0, got 1"},
      {{text_piece("a"), text_piece("b", 2)}, "piece.input_index", "must be 0 or 1, got 2"},
      {{text_piece("a"), text_piece("b", -1)}, "piece.input_index", "got -1"},
      {{text_piece("")}, "piece.text", "must be 1 to 4096 bytes"},
      {{text_piece(large)}, "piece.text", "got 4097"},
      {{{.content = std::span<const Token>(ids)}}, "piece.token_ids", "must be 1 to 1024 ids"},
      {{text_piece("a"), {.content = few}}, "piece.token_ids", "of one kind"},
      {{text_piece("a"), with_context}, "piece.context", "first piece"},
      {{{.content = few, .context = "a"}}, "piece.context", "goes with text"},
      {{{.content = std::string_view("a"), .context_tokens = 1}},
       "piece.context_tokens",
       "goes with token_ids"},
      {{text_piece("ab \xe4"), text_piece("\xb8"), text_piece("x")},
       "inputs[0].text",
       "not UTF-8 at byte 3"},
      {{text_piece("a"), text_piece("bc\xff", 1)}, "inputs[1].text", "not UTF-8 at byte 2"},
      {{text_piece("abc\xe4\xb8"), text_piece("b", 1)}, "inputs[0].text", "not UTF-8 at byte 3"},
  };
  for (const Refused& each : cases) {
    const auto inputs = begun(1);
    absl::Status status;
    for (const InputPiece& piece : each.pieces) status.Update(inputs->add(piece));
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << each.message;
    const auto refusal = refusal_of(status);
    ASSERT_TRUE(refusal) << status;
    EXPECT_EQ(refusal->field, each.field);
    EXPECT_THAT(std::string(status.message()), HasSubstr(each.message));
  }
}

TEST_F(StreamedInputsTest, AnEndWithoutPiecesOrWithinACharacterIsRefused) {
  const absl::Status none = begun(1)->end();
  EXPECT_EQ(refusal_of(none)->field, "inputs");
  const auto inputs = begun(1);
  ASSERT_TRUE(inputs->add(text_piece("the thin \xf0\x9f")).ok());
  const absl::Status cut = inputs->end();
  EXPECT_TRUE(absl::IsInvalidArgument(cut));
  EXPECT_THAT(std::string(cut.message()), HasSubstr("not UTF-8 at byte 9"));
}

TEST_F(StreamedInputsTest, NothingIsTakenOfAClientThatIsGone) {
  const auto inputs = begun(1);
  ASSERT_TRUE(inputs->make_room().ok());
  inputs->cancel();
  EXPECT_TRUE(absl::IsCancelled(inputs->make_room()));
  EXPECT_TRUE(absl::IsCancelled(inputs->add(text_piece("the thin lines"))));
}

}  // namespace
}  // namespace kascade::testing
