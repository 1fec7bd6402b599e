// Tests ScoreStream over gRPC with a tiny random model: the same responses as Score, whatever the
// pieces; the order of messages; and every way in which a stream can go wrong.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "grpcpp/generic/generic_stub.h"
#include "gtest/gtest.h"
#include "server/core/limits.h"
#include "tests/support/server_fixture.h"

namespace kascade::testing {
namespace {

using ::testing::HasSubstr;

constexpr char kText[] = "the thin \u4e2d\u6587 lines\n in \U0001f600 corner\n";

v1::ScoreStreamRequest options_message(const v1::ScoreRequest& options = {}) {
  v1::ScoreStreamRequest message;
  *message.mutable_options() = options;
  return message;
}
v1::ScoreStreamRequest text_message(std::string_view text, int32_t input = 0) {
  v1::ScoreStreamRequest message;
  message.mutable_piece()->set_input_index(input);
  message.mutable_piece()->set_text(text.data(), text.size());
  return message;
}
v1::ScoreStreamRequest end_message() {
  v1::ScoreStreamRequest message;
  message.mutable_end();
  return message;
}

// Sends the messages, and reads what comes. `half_close` afterwards.
Stream<v1::ScoreResponse> stream(TestServer& server,
                                 const std::vector<v1::ScoreStreamRequest>& messages,
                                 bool half_close = true) {
  Stream<v1::ScoreResponse> out;
  grpc::ClientContext context;
  auto call = server.inference->ScoreStream(&context);
  for (const auto& message : messages) {
    if (!call->Write(message)) break;
  }
  if (half_close) call->WritesDone();
  for (v1::ScoreResponse message; call->Read(&message);) out.messages.push_back(message);
  out.status = call->Finish();
  return out;
}

// Of all responses but progress, whose number and rate depend on the clock, bit by bit.
// Neighbouring messages of tokens are joined: how many tokens share one depends on the steps.
std::string results_of(const Stream<v1::ScoreResponse>& stream) {
  EXPECT_TRUE(stream.status.ok()) << stream.status.error_message();
  std::vector<v1::ScoreResponse> responses;
  for (const v1::ScoreResponse& message : stream.messages) {
    if (message.has_progress()) continue;
    const bool joins = message.has_tokens() && !responses.empty() &&
                       responses.back().has_tokens() &&
                       responses.back().tokens().input_index() == message.tokens().input_index();
    if (!joins) {
      responses.push_back(message);
      continue;
    }
    const int64_t first = responses.back().tokens().first_position();
    responses.back().mutable_tokens()->MergeFrom(message.tokens());
    responses.back().mutable_tokens()->set_first_position(first);
  }
  std::string bytes;
  for (const auto& response : responses) bytes += response.SerializeAsString() + "\n";
  EXPECT_GT(responses.size(), 2u);
  return bytes;
}

class ScoreStreamTest : public ServerTest {
 protected:
  void restart(int64_t request_memory, int32_t stalled_seconds) {
    server::ServerOptions options = server_options(dir_.path());
    options.request_memory_bytes = request_memory;
    options.max_message_bytes = 1 << 20;
    options.stalled_client_seconds = stalled_seconds;
    server_ = std::make_unique<TestServer>(options);
  }
  bool all_memory_is_back() {
    return eventually([&] {
      return server()->metrics_text().find("\nkascade_request_memory_bytes 0\n") !=
             std::string::npos;
    });
  }
};

TEST_F(ScoreStreamTest, EverySplitGivesTheResponsesOfScore) {
  const std::string text = kText;
  v1::ScoreRequest options;
  options.mutable_response()->set_tokens(true);
  options.mutable_response()->set_top_logprobs(2);
  v1::ScoreRequest request = options;
  request.add_inputs()->set_text(text);
  const std::string expected = results_of(score(server(), request));
  for (size_t at = 1; at < text.size(); ++at) {
    const auto streamed =
        stream(server(), {options_message(options), text_message(text.substr(0, at)),
                          text_message(text.substr(at)), end_message()});
    EXPECT_EQ(results_of(streamed), expected) << at;
  }
}

// Long enough to be encoded in parts, and with several windows.
TEST_F(ScoreStreamTest, LongTextsIdsAndContextsGiveTheResponsesOfScore) {
  activate();
  const std::string text = long_text(3 * core::kEncodedAtOnceBytes / 2);
  v1::ScoreRequest options;
  options.mutable_attention()->set_mode(v1::ATTENTION_MODE_SPARSE);
  options.set_protocol(v1::SCORE_PROTOCOL_ROLLING);
  options.set_max_tokens_per_text(4000);
  v1::ScoreRequest request = options;
  request.add_inputs()->set_text(text);
  auto& ids = *request.add_inputs()->mutable_token_ids();
  for (int i = 0; i < 700; ++i) ids.add_ids(i * 7 % 250);
  request.mutable_inputs(1)->set_context_tokens(0);
  auto& last = *request.add_inputs();
  last.set_text("in the other");
  last.set_context("the thin lines ");

  std::vector<v1::ScoreStreamRequest> messages{options_message(options)};
  for (size_t at = 0; at < text.size(); at += 10'001) {
    messages.push_back(text_message(std::string_view(text).substr(at, 10'001)));
  }
  for (int half = 0; half < 2; ++half) {
    v1::ScorePiece& piece = *messages.emplace_back().mutable_piece();
    piece.set_input_index(1);
    for (int i = half * 350; i < (half + 1) * 350; ++i)
      piece.mutable_token_ids()->add_ids(ids.ids(i));
    if (half == 0) piece.set_context_tokens(0);
  }
  messages.push_back(text_message("in the", 2));
  messages.back().mutable_piece()->set_context("the thin lines ");
  messages.push_back(text_message(" other", 2));
  messages.push_back(end_message());
  const auto streamed = stream(server(), messages);
  const auto unary = score(server(), request);
  const v1::ScoreSummary total = total_of(streamed);
  EXPECT_EQ(total.SerializeAsString(), total_of(unary).SerializeAsString());
  EXPECT_EQ(streamed.messages.front().SerializeAsString(),
            unary.messages.front().SerializeAsString());
  EXPECT_GT(total.windows(), 8);
  EXPECT_TRUE(all_memory_is_back());
}

TEST_F(ScoreStreamTest, TextsLongerThanAMessageAreScored) {
  restart(int64_t{64} << 20, 120);
  const std::string piece = long_text(400'000);
  v1::ScoreRequest options;
  options.set_max_tokens_per_text(100);
  std::vector<v1::ScoreStreamRequest> messages{options_message(options)};
  for (int i = 0; i < 4; ++i) messages.push_back(text_message(piece));
  messages.push_back(end_message());
  EXPECT_EQ(total_of(stream(server(), messages)).tokens_scored(), 100);
  EXPECT_TRUE(all_memory_is_back());
}

TEST_F(ScoreStreamTest, ResponsesBeginWithoutHalfClose) {
  const auto streamed =
      stream(server(), {options_message(), text_message("the thin lines"), end_message()}, false);
  EXPECT_GT(total_of(streamed).tokens_scored(), 0);
}

TEST_F(ScoreStreamTest, RefusesMessagesOutOfOrder) {
  v1::ScoreRequest with_input;
  with_input.add_inputs()->set_text("the thin lines");
  v1::ScoreRequest bad_window;
  bad_window.set_window_tokens(1);
  v1::ScoreRequest bad_sample;
  bad_sample.mutable_response()->set_top_logprobs(21);
  v1::ScoreStreamRequest no_content;
  no_content.mutable_piece();
  const auto piece = text_message("the thin lines");
  struct Case {
    std::vector<v1::ScoreStreamRequest> messages;
    Expected expected;
  };
  const Case cases[] = {
      {{piece}, bad("options")},
      {{end_message()}, bad("options")},
      {{options_message(), options_message()}, bad("options")},
      {{options_message(), piece, options_message()}, bad("options")},
      {{options_message(), end_message()}, bad("inputs")},
      {{options_message(with_input)}, bad("options.inputs")},
      {{options_message(bad_window)}, bad("window_tokens")},
      {{options_message(bad_sample), piece, end_message()}, bad("response.top_logprobs")},
      {{options_message(), no_content}, bad("piece")},
      {{options_message(), v1::ScoreStreamRequest()}, bad("part")},
      {{options_message(), text_message("a", 1)}, bad("piece.input_index")},
      {{options_message(), text_message("ab\xff")}, bad("inputs[0].text")},
      {{options_message(), text_message("a"), end_message()}, {}},
      {{}, bad("", "MALFORMED_REQUEST")},
      {{options_message(), piece}, bad("", "MALFORMED_REQUEST")},
  };
  for (const Case& each : cases) {
    const grpc::Status status = stream(server(), each.messages).status;
    const size_t number = &each - cases;
    if (each.expected.reason.empty()) {
      EXPECT_TRUE(status.ok()) << number << ": " << status.error_message();
    } else {
      expect(status, each.expected, std::to_string(number));
    }
  }
  EXPECT_TRUE(all_memory_is_back());
}

TEST_F(ScoreStreamTest, ErrorsNameTheByteAndTheInput) {
  const std::string text = kText;
  auto status = stream(server(), {options_message(), text_message(text), text_message("ab\xc3", 1),
                                  text_message("\x28", 1)})
                    .status;
  expect(status, bad("inputs[1].text"), "UTF-8");
  EXPECT_THAT(status.error_message(), HasSubstr("not UTF-8 at byte 2"));
  v1::ScoreStreamRequest ids;
  ids.mutable_piece()->mutable_token_ids()->add_ids(7);
  ids.mutable_piece()->mutable_token_ids()->add_ids(1'000'000);
  status = stream(server(), {options_message(), ids, end_message()}).status;
  expect(status, bad("inputs[0].token_ids.ids[1]", "UNKNOWN_TOKEN"), "id");
}

TEST_F(ScoreStreamTest, AMessageThatIsNoneIsNotTheEnd) {
  grpc::GenericStub stub(server().channel());
  grpc::ClientContext context;
  grpc::CompletionQueue queue;
  const auto wait = [&queue] {
    void* tag = nullptr;
    bool ok = false;
    return queue.Next(&tag, &ok) && ok;
  };
  auto call = stub.PrepareCall(&context, "/kascade.v1.InferenceService/ScoreStream", &queue);
  call->StartCall(nullptr);
  ASSERT_TRUE(wait());
  const std::string good = options_message().SerializeAsString();
  for (const std::string& bytes : {good, text_message("the thin lines").SerializeAsString(),
                                   std::string("\x12\x7f"
                                               "cut")}) {
    const grpc::Slice slice(bytes);
    call->Write(grpc::ByteBuffer(&slice, 1), nullptr);
    ASSERT_TRUE(wait());
  }
  grpc::Status status;
  call->Finish(&status, nullptr);
  ASSERT_TRUE(wait());
  expect(status, bad("", "MALFORMED_REQUEST"), "cut message");
}

TEST_F(ScoreStreamTest, LimitsAreToldAndHold) {
  restart(int64_t{16} << 20, 120);
  grpc::ClientContext context;
  v1::GetModelInfoResponse info;
  ASSERT_TRUE(server().inference->GetModelInfo(&context, {}, &info).ok());
  const auto most = static_cast<size_t>(info.limits().max_piece_bytes());
  EXPECT_EQ(most, 1u << 19);
  EXPECT_EQ(info.limits().max_text_bytes(), int64_t{256} << 20);
  expect(stream(server(), {options_message(), text_message(std::string(most + 1, 'x'))}).status,
         bad("piece.text"), "piece");
  // A word without end, of which nothing can be encoded before the end.
  std::vector<v1::ScoreStreamRequest> messages{options_message()};
  const std::string word(1 << 15, 'x');
  for (int i = 0; i < 640; ++i) messages.push_back(text_message(word));
  expect(stream(server(), messages).status,
         {grpc::StatusCode::FAILED_PRECONDITION, "MEMORY_BUDGET", ""}, "memory");
  EXPECT_TRUE(all_memory_is_back());
}

TEST_F(ScoreStreamTest, AClientThatSendsNothingMoreIsEnded) {
  restart(int64_t{16} << 20, /*stalled_seconds=*/1);
  const grpc::Status status =
      stream(server(), {options_message(), text_message("the thin lines")}, /*half_close=*/false)
          .status;
  EXPECT_EQ(status.error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  EXPECT_THAT(status.error_message(), HasSubstr("--stalled-client-seconds"));
  EXPECT_TRUE(all_memory_is_back());
}

TEST_F(ScoreStreamTest, ACancelledOrLateStreamGivesItsMemoryBack) {
  for (const bool late : {false, true}) {
    grpc::ClientContext context;
    if (late)
      context.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(200));
    auto call = server().inference->ScoreStream(&context);
    ASSERT_TRUE(call->Write(options_message()));
    ASSERT_TRUE(call->Write(text_message("the thin lines")));
    if (!late) context.TryCancel();
    v1::ScoreResponse message;
    EXPECT_FALSE(call->Read(&message));
    EXPECT_EQ(call->Finish().error_code(),
              late ? grpc::StatusCode::DEADLINE_EXCEEDED : grpc::StatusCode::CANCELLED);
    EXPECT_TRUE(all_memory_is_back());
  }
}

// The room of the second stream is held by the first one, which ends.
TEST_F(ScoreStreamTest, AStreamWaitsForMemoryThatOthersHold) {
  restart(int64_t{4} << 20, 120);  // 3 MiB for requests, of which one stream takes 1.5 at once
  grpc::ClientContext first_context;
  auto first = server().inference->ScoreStream(&first_context);
  ASSERT_TRUE(first->Write(options_message()));
  ASSERT_TRUE(first->Write(text_message("the thin lines")));
  grpc::ClientContext second_context;
  auto second = server().inference->ScoreStream(&second_context);
  ASSERT_TRUE(second->Write(options_message()));
  EXPECT_TRUE(second->Write(text_message("in the other corner")));
  first->Write(end_message());
  v1::ScoreResponse message;
  while (first->Read(&message)) continue;
  EXPECT_TRUE(first->Finish().ok());
  second->Write(end_message());
  v1::ScoreResponse last;
  while (second->Read(&message)) last = message;
  EXPECT_TRUE(second->Finish().ok());
  EXPECT_TRUE(last.has_total());
  EXPECT_TRUE(all_memory_is_back());
}

TEST_F(ScoreStreamTest, AStreamDoesNotWaitForMemoryForever) {
  restart(int64_t{4} << 20, /*stalled_seconds=*/1);
  grpc::ClientContext first_context;
  auto first = server().inference->ScoreStream(&first_context);
  ASSERT_TRUE(first->Write(options_message()));
  std::atomic<bool> refused = false;
  std::thread second([&] {
    const auto streamed = stream(server(), {options_message(), text_message("the thin lines")});
    expect(streamed.status, {grpc::StatusCode::RESOURCE_EXHAUSTED, "MEMORY_BUDGET", ""}, "second");
    refused = true;
  });
  // The first one goes on sending, and keeps its memory.
  EXPECT_TRUE(eventually([&] { return !first->Write(text_message("the ")) || refused; }));
  EXPECT_TRUE(refused);
  second.join();
  first->Write(end_message());
  v1::ScoreResponse message;
  while (first->Read(&message)) continue;
  EXPECT_TRUE(first->Finish().ok());
}

}  // namespace
}  // namespace kascade::testing
