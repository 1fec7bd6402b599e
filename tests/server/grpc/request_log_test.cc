// Tests the record of the log that each call leaves and what it never has in it, and what
// operators ask: the configuration, and limits that changed.
#include <map>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "server/log/log_format.h"
#include "tests/support/captured_log.h"
#include "tests/support/server_fixture.h"

namespace kascade::testing {
namespace {

using nlohmann::json;
using ::testing::AnyOf;
using ::testing::HasSubstr;
using ::testing::MatchesRegex;
using ::testing::Not;

constexpr char kTraceparent[] = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
// A word that no message of the server has.
constexpr char kMarker[] = "xylophonquartz";

class RequestLogTest : public ServerTest {
 protected:
  // The records of requests so far, once there are so many.
  std::vector<json> records(size_t count) {
    std::vector<json> out;
    const bool complete = eventually([&] {
      out.clear();
      std::istringstream lines(log_.text());
      for (std::string line; std::getline(lines, line);) {
        json record = json::parse(line);
        if (record.at("message") == "request") out.push_back(std::move(record));
      }
      return out.size() >= count;
    });
    EXPECT_TRUE(complete) << log_.text();
    return out;
  }
  // Calls without a message and with a damaged one, and with the marker in all texts that a method
  // takes.
  void call_with_marker();

  const CapturedLog log_{logging::json_formatter()};
};

TEST_F(RequestLogTest, ARecordHasTheIdsTheEndAndTheTokens) {
  grpc::ClientContext context;
  context.AddMetadata("x-request-id", "order-17");
  context.AddMetadata("traceparent", kTraceparent);
  auto reader = server().inference->Generate(&context, greedy("in the", 5));
  int64_t prompt_tokens = 0;
  for (v1::GenerateResponse message; reader->Read(&message);) {
    if (message.has_finished()) prompt_tokens = message.finished().prompt_tokens();
  }
  ASSERT_TRUE(reader->Finish().ok());
  const json record = records(1).at(0);
  EXPECT_EQ(record.at("level"), "info");
  EXPECT_EQ(record.at("rpc"), "Generate");
  EXPECT_EQ(record.at("code"), "OK");
  EXPECT_EQ(record.at("request_id"), "order-17");
  EXPECT_EQ(record.at("traceparent"), kTraceparent);
  EXPECT_EQ(record.at("prompt_tokens"), prompt_tokens);
  EXPECT_EQ(record.at("generated_tokens"), 5);
  EXPECT_GT(record.at("seconds"), 0);
  EXPECT_EQ(record.at("client"), "ipv4:127.0.0.1");
  EXPECT_FALSE(record.contains("error"));
  const auto& trailers = context.GetServerTrailingMetadata();
  EXPECT_EQ(trailers.find("x-request-id")->second, "order-17");
}

TEST_F(RequestLogTest, ARefusalHasTheReasonAndANewId) {
  const auto refused = generate(server(), v1::GenerateRequest());
  EXPECT_EQ(refused.status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  const json record = records(1).at(0);
  EXPECT_EQ(record.at("code"), "INVALID_ARGUMENT");
  EXPECT_EQ(record.at("error"), refused.status.error_message());
  EXPECT_THAT(record.at("request_id").get<std::string>(), MatchesRegex("[0-9a-f]{32}"));
  EXPECT_EQ(record.at("request_id"), refused.trailers.at("x-request-id"));
  EXPECT_THAT(record.at("traceparent").get<std::string>(),
              MatchesRegex("00-[0-9a-f]{32}-[0-9a-f]{16}-00"));
}

TEST_F(RequestLogTest, AScoringTellsItsTokens) {
  v1::ScoreRequest request;
  request.add_inputs()->set_text("in the corner");
  request.add_inputs()->set_text("the thin lines");
  const int64_t tokens = total_of(score(server(), request)).tokens_scored();
  EXPECT_EQ(records(1).at(0).at("scored_tokens"), tokens);
}

void RequestLogTest::call_with_marker() {
  const std::string text = long_text(200) + kMarker + long_text(60);
  const std::string damaged = text + "\xff";
  for (const std::string& prompt : {text, damaged}) {
    v1::GenerateRequest generation = greedy(prompt, 3);
    generation.mutable_stopping()->add_stop_strings(kMarker);
    generate(server(), generation);
    generation.mutable_sampling()->set_temperature(-1);
    generate(server(), generation);
    v1::GenerateRequest conversation = greedy("", 3);
    auto* message = conversation.mutable_chat()->add_messages();
    message->set_role(v1::CHAT_ROLE_USER);
    message->set_content(prompt);
    generate(server(), conversation);
    v1::ScoreRequest scoring;
    scoring.add_inputs()->set_text(prompt);
    score(server(), scoring);
    scoring.set_window_tokens(-1);
    score(server(), scoring);
    v1::TraceRequest trace;
    trace.set_text(prompt);
    grpc::ClientContext trace_context;
    auto traced = server().inference->Trace(&trace_context, trace);
    for (v1::TraceResponse response; traced->Read(&response);) continue;
    (void)traced->Finish();
    v1::TokenizeRequest tokenize;
    tokenize.add_texts(prompt);
    tokenize.set_details(true);
    grpc::ClientContext tokenize_context;
    v1::TokenizeResponse tokens;
    (void)server().inference->Tokenize(&tokenize_context, tokenize, &tokens);
    v1::CalibrateRequest calibration;
    calibration.add_texts(prompt);
    calibrate(server(), calibration);
  }
}

TEST_F(RequestLogTest, NoTextOfAClientIsLoggedWhateverTheLevel) {
  ASSERT_NO_FATAL_FAILURE(activate());
  call_with_marker();
  EXPECT_GE(records(14).size(), 14u);
  EXPECT_THAT(log_.text(), Not(HasSubstr(kMarker)));
  EXPECT_THAT(log_.text(), Not(HasSubstr("thin lines")));
}

TEST_F(RequestLogTest, HeadersAreLoggedOnlyWhereTheyAreValid) {
  grpc::ClientContext context;
  context.AddMetadata("x-request-id", "a b \"forged\"");
  context.AddMetadata("x-other", kMarker);
  context.AddMetadata("traceparent", kMarker);
  v1::GetModelInfoResponse response;
  ASSERT_TRUE(server().inference->GetModelInfo(&context, {}, &response).ok());
  EXPECT_THAT(records(1).at(0).at("request_id").get<std::string>(), MatchesRegex("[0-9a-f]{32}"));
  EXPECT_THAT(log_.text(), Not(AnyOf(HasSubstr(kMarker), HasSubstr("forged"))));
}

TEST_F(RequestLogTest, TheConfigurationIsTold) {
  grpc::ClientContext context;
  v1::GetConfigurationResponse response;
  server()->set_configured_options(
      {{.name = "max-queue", .value = "8", .source = "flag", .reloadable = true}});
  ASSERT_TRUE(server().operation->GetConfiguration(&context, {}, &response).ok());
  ASSERT_EQ(response.options_size(), 1);
  EXPECT_EQ(response.options(0).name(), "max-queue");
  EXPECT_EQ(response.options(0).value(), "8");
  EXPECT_EQ(response.options(0).source(), "flag");
  EXPECT_TRUE(response.options(0).reloadable());
}

TEST_F(RequestLogTest, LimitsOfTheQueueChangeWhileTheServerRuns) {
  const QueueLimits limits{.max_queue = 7, .max_queued_tokens = 0, .max_wait_seconds = 0.5};
  ASSERT_TRUE(server()->engine().set_queue_limits(limits).ok());
  EXPECT_TRUE(absl::IsInvalidArgument(server()->engine().set_queue_limits({.max_queue = 0})));
  grpc::ClientContext context;
  v1::GetModelInfoResponse response;
  ASSERT_TRUE(server().inference->GetModelInfo(&context, {}, &response).ok());
  EXPECT_EQ(response.limits().max_queue(), 7);
  EXPECT_EQ(response.limits().max_queued_tokens(), 8 * response.limits().cache_tokens());
  EXPECT_EQ(response.limits().max_wait_seconds(), 0.5);
}

}  // namespace
}  // namespace kascade::testing
