// Tests the bounds on what requests hold, over the wire: the budget of memory, clients that do not
// read, deadlines, and lists in pages.
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kascade/v1/score.pb.h"
#include "server/core/limits.h"
#include "server/grpc/translate_generate.h"
#include "server/grpc/translate_score.h"
#include "tests/support/engine_client.h"
#include "tests/support/test_server.h"

namespace kascade::testing {
namespace {

constexpr int64_t kMiB = int64_t{1} << 20;

class RequestMemoryTest : public ::testing::Test {
 protected:
  RequestMemoryTest() {
    write_tiny_model({.layers = 4, .context = 512, .peaked = true}, dir_.path());
  }
  void start(int64_t request_memory, int32_t stalled_seconds = 120) {
    server::ServerOptions options = server_options(dir_.path());
    options.request_memory_bytes = request_memory;
    options.max_message_bytes = 4 * kMiB;
    options.stalled_client_seconds = stalled_seconds;
    server_ = std::make_unique<TestServer>(options);
  }
  TestServer& server() { return *server_; }
  std::string metric(const std::string& name) {
    const std::string text = server()->metrics_text();
    const size_t begin = text.find("\n" + name + " ") + name.size() + 2;
    return text.substr(begin, text.find('\n', begin) - begin);
  }
  bool all_memory_is_back() {
    return eventually([&] { return metric("kascade_request_memory_bytes") == "0"; });
  }
  static v1::ScoreRequest score_of(const std::string& text, int32_t top_logprobs = 0) {
    v1::ScoreRequest request;
    request.add_inputs()->set_text(text);
    request.mutable_response()->set_top_logprobs(top_logprobs);
    return request;
  }
  v1::ListSchedulesResponse list(int32_t page_size, const std::string& token) {
    v1::ListSchedulesRequest request;
    if (page_size > 0) request.set_page_size(page_size);
    request.set_page_token(token);
    v1::ListSchedulesResponse response;
    grpc::ClientContext context;
    status_ = server().calibration->ListSchedules(&context, request, &response);
    return response;
  }

  TempDir dir_;
  std::unique_ptr<TestServer> server_;
  grpc::Status status_;
};

TEST_F(RequestMemoryTest, IsToldAndGivenBack) {
  start(64 * kMiB);
  grpc::ClientContext context;
  v1::GetModelInfoResponse info;
  ASSERT_TRUE(server().inference->GetModelInfo(&context, {}, &info).ok());
  EXPECT_EQ(info.limits().request_memory_bytes(), 48 * kMiB);  // a quarter is gRPC's
  EXPECT_EQ(info.limits().max_message_bytes(), 4 * kMiB);
  EXPECT_EQ(metric("kascade_request_memory_limit_bytes"), "50331648");
  EXPECT_TRUE(score(server(), score_of(std::string(2000, 'x'))).status.ok());
  EXPECT_TRUE(all_memory_is_back());
}

TEST_F(RequestMemoryTest, ARequestThatCanNeverFitIsAPrecondition) {
  start(16 * kMiB);
  expect(score(server(), score_of(std::string(2 * kMiB, 'x'))).status,
         {grpc::StatusCode::FAILED_PRECONDITION, "MEMORY_BUDGET", ""}, "score");
  EXPECT_TRUE(all_memory_is_back());
}

TEST_F(RequestMemoryTest, LongTextsAreRefusedByTheFieldThatHasThem) {
  start(64 * kMiB);
  v1::GenerateRequest request;
  request.set_text(std::string(3 * kMiB, 'x'));
  expect(generate(server(), request).status, bad("text", "TOO_LONG"), "text");
  auto& message = *request.mutable_chat()->add_messages();
  message.set_role(v1::CHAT_ROLE_USER);
  message.set_content(std::string(3 * kMiB, 'x'));
  request.mutable_chat()->set_format(v1::CHAT_FORMAT_VICUNA);
  const grpc::Status chat = generate(server(), request).status;
  EXPECT_NE(chat.error_code(), grpc::StatusCode::OK);
  v1::TokenizeRequest tokenize;
  tokenize.add_texts(std::string(3 * kMiB, 'x'));
  tokenize.set_details(true);
  const auto refusal = [&] {
    grpc::ClientContext context;
    v1::TokenizeResponse response;
    return server().inference->Tokenize(&context, tokenize, &response);
  };
  expect(refusal(), {grpc::StatusCode::FAILED_PRECONDITION, "MEMORY_BUDGET", ""}, "details");
  EXPECT_TRUE(all_memory_is_back());
  start(512 * kMiB);  // holds the details, which are more than a message may have
  expect(refusal(), bad("texts[0]", "TOO_LONG"), "reply");
  EXPECT_TRUE(all_memory_is_back());
}

TEST_F(RequestMemoryTest, AClientThatReadsNothingIsEnded) {
  start(64 * kMiB, /*stalled_seconds=*/1);
  // Far more than what this connection, whose window does not grow, holds on the way.
  auto request = score_of(std::string(40'000, 'x'), /*top_logprobs=*/20);
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);
  const auto stub = v1::InferenceService::NewStub(grpc::CreateCustomChannel(
      absl::StrCat("127.0.0.1:", server()->port()), grpc::InsecureChannelCredentials(), arguments));
  grpc::ClientContext context;
  auto reader = stub->Score(&context, request);
  v1::ScoreResponse message;
  ASSERT_TRUE(reader->Read(&message));
  EXPECT_TRUE(all_memory_is_back());
  while (reader->Read(&message)) continue;
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_TRUE(all_blocks_free(server()));
  EXPECT_EQ(metric("kascade_rpc_requests_total{code=\"DEADLINE_EXCEEDED\",rpc=\"Score\"}"), "1");
}

TEST_F(RequestMemoryTest, ADeadlineInAnotherCenturyIsNone) {
  start(64 * kMiB);
  for (const int64_t years : {10, 300, 5000}) {
    grpc::ClientContext context;
    gpr_timespec deadline = gpr_now(GPR_CLOCK_REALTIME);
    deadline.tv_sec += years * 365 * 86400;
    context.set_deadline(deadline);
    auto reader = server().inference->Score(&context, score_of("the thin lines"));
    v1::ScoreResponse message;
    while (reader->Read(&message)) continue;
    const grpc::Status status = reader->Finish();
    EXPECT_TRUE(status.ok()) << years << " years: " << status.error_message();
  }
}

TEST_F(RequestMemoryTest, SchedulesAreListedInPages) {
  start(64 * kMiB);
  auto& engine = server()->engine();
  const SelectionSettings keys{
      .family = Family::kKascade, .query_tile = 16, .ratio = 0.1, .min_keys = 8};
  std::vector<std::string> ids;
  for (int i = 0; i < 5; ++i) {
    Schedule made = *make_schedule(engine, {1}, keys);
    made.created_at = absl::StrCat(2000 + i, "-01-02T03:04:05Z");
    seal(made);
    v1::ActivateScheduleRequest request;
    request.set_schedule_json(to_json(made));
    request.set_force(true);
    v1::ActivateScheduleResponse response;
    grpc::ClientContext context;
    const auto status = server().calibration->ActivateSchedule(&context, request, &response);
    ASSERT_TRUE(status.ok()) << status.error_message();
    ids.insert(ids.begin(), made.schedule_id);
  }
  std::vector<std::string> listed;
  std::string token;
  std::vector<int> sizes;
  do {
    const auto page = list(2, token);
    ASSERT_TRUE(status_.ok()) << status_.error_message();
    EXPECT_EQ(page.active_schedule_id(), ids.front());
    for (const auto& schedule : page.schedules()) listed.push_back(schedule.schedule_id());
    sizes.push_back(page.schedules_size());
    token = page.next_page_token();
  } while (!token.empty());
  EXPECT_EQ(listed, ids);
  EXPECT_THAT(sizes, ::testing::ElementsAre(2, 2, 1));
  EXPECT_EQ(list(0, "").schedules_size(), 5);  // by default up to 50
  list(257, "");
  expect(status_, bad("page_size"), "257");
  for (const char* wrong : {"x", "????", "AAAA"}) {
    list(2, wrong);
    expect(status_, bad("page_token"), wrong);
  }
}

TEST_F(RequestMemoryTest, CalibrationsAreListedInPages) {
  start(64 * kMiB);
  for (const int32_t size : {0, -1, 257}) {
    v1::ListCalibrationsRequest request;
    request.set_page_size(size);
    v1::ListCalibrationsResponse response;
    grpc::ClientContext context;
    expect(server().calibration->ListCalibrations(&context, request, &response), bad("page_size"),
           absl::StrCat(size));
  }
}

// The estimate that requests reserve for what their clients have not read.
TEST(SentTokenBytes, AreAnUpperBound) {
  for (const int32_t top : {0, 1, 20}) {
    std::vector<ScoredToken> tokens(4096, {.token = 100'000, .logprob = -1, .rank = 5});
    for (ScoredToken& token : tokens) token.top.resize(static_cast<size_t>(top));
    const std::vector<TokenComparison> comparisons(tokens.size());
    size_t memory = 0;
    for (const auto& message :
         server::to_proto(core::ScoredColumns{.tokens = tokens, .comparisons = comparisons},
                          {.ranks = true, .top = top > 0})) {
      v1::ScoreResponse response;
      *response.mutable_tokens() = message;
      memory += response.SpaceUsedLong();
    }
    EXPECT_LT(memory, tokens.size() * core::sent_token_bytes(top)) << top;
    v1::GenerateResponse generated;
    server::to_proto({.text = std::string(tokens.size() * 8, 'x'), .tokens = tokens},
                     {.token_ids = true, .logprobs = true, .top = top > 0},
                     *generated.mutable_delta());
    EXPECT_LT(generated.SpaceUsedLong(), tokens.size() * core::sent_token_bytes(top)) << top;
  }
}

}  // namespace
}  // namespace kascade::testing
