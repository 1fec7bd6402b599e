// Tests refusals because the server lacks a feature, a schedule or memory, with their
// machine-readable details.
#include <memory>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/engine_client.h"
#include "tests/support/test_server.h"

namespace kascade::testing {
namespace {

using ::testing::HasSubstr;

class ServerRefusalsTest : public ::testing::Test {
 protected:
  ServerRefusalsTest() { write_tiny_model({.layers = 4, .context = 512}, dir_.path()); }

  TestServer& server() {
    if (!server_) server_ = std::make_unique<TestServer>(server_options(dir_.path()));
    return *server_;
  }
  TestServer& start(const server::ServerOptions& options) {
    server_.reset();
    server_ = std::make_unique<TestServer>(options);
    return *server_;
  }
  std::shared_ptr<Schedule> schedule(Family family = Family::kKascade) {
    const SelectionSettings rule{.family = family, .query_tile = 16, .min_keys = 8, .top_k = 2};
    auto schedule = make_schedule(server()->engine(), {1}, rule);
    schedule->created_at = "2026-01-02T03:04:05Z";
    schedule->quality.passed = true;
    seal(*schedule);
    return schedule;
  }
  static v1::GenerateRequest prompt(const std::string& text = "in the") {
    v1::GenerateRequest request;
    request.set_text(text);
    request.mutable_stopping()->set_max_new_tokens(1);
    return request;
  }

  TempDir dir_;
  std::unique_ptr<TestServer> server_;
};

// ---- Schedules ----

TEST_F(ServerRefusalsTest, SparseWithoutAScheduleNamesTheCureAndTheReason) {
  const Expected expected{grpc::StatusCode::FAILED_PRECONDITION, "NO_SCHEDULE", ""};
  v1::GenerateRequest request = prompt();
  request.mutable_attention()->set_mode(v1::ATTENTION_MODE_SPARSE);
  expect(generate(server(), request).status, expected, "sparse");
  request = prompt();
  request.mutable_attention()->set_ratio(0.5);
  expect(generate(server(), request).status, expected, "ratio");
  v1::ScoreRequest scoring;
  scoring.add_inputs()->set_text("in the");
  scoring.mutable_attention()->set_mode(v1::ATTENTION_MODE_COMPARE);
  expect(score(server(), scoring).status, expected, "compare");
}

TEST_F(ServerRefusalsTest, ARatioNeedsAScheduleThatHasOne) {
  ASSERT_TRUE(server()->engine().activate(schedule(Family::kTile)).ok());
  v1::GenerateRequest request = prompt();
  request.mutable_attention()->set_ratio(0.5);
  expect(generate(server(), request).status, bad("attention.ratio"), "family tile");
}

TEST_F(ServerRefusalsTest, ActivateScheduleRefusesWhatDoesNotFit) {
  const auto activate = [&](const v1::ActivateScheduleRequest& request) {
    grpc::ClientContext context;
    v1::ActivateScheduleResponse response;
    return server().calibration->ActivateSchedule(&context, request, &response);
  };
  const auto activate_json = [&](const Schedule& schedule) {
    v1::ActivateScheduleRequest request;
    request.set_schedule_json(to_json(schedule));
    return activate(request);
  };
  v1::ActivateScheduleRequest request;
  expect(activate(request), bad("source"), "nothing");
  request.set_schedule_id("none");
  expect(activate(request), {grpc::StatusCode::NOT_FOUND, "NOT_FOUND", ""}, "unknown id");
  request.set_schedule_json("{");
  EXPECT_EQ(activate(request).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(details_of(activate(request)).field, HasSubstr("schedule_json"));

  Schedule other = *schedule();
  other.model.weights_digest = std::string(64, 'a');
  seal(other);
  const grpc::Status mismatch = activate_json(other);
  expect(mismatch, {grpc::StatusCode::FAILED_PRECONDITION, "SCHEDULE_MISMATCH", ""}, "other model");
  const Details details = details_of(mismatch);
  EXPECT_EQ(details.metadata.at("schedule_weights_digest"), std::string(64, 'a'));
  EXPECT_EQ(details.metadata.at("model_weights_digest"),
            server()->engine().identity().weights_digest);

  other.model.weights_digest = "";  // of a model that nobody can tell
  seal(other);
  const grpc::Status unknown = activate_json(other);
  expect(unknown, {grpc::StatusCode::FAILED_PRECONDITION, "SCHEDULE_MISMATCH", ""}, "no digest");
  EXPECT_THAT(unknown.error_message(),
              AllOf(HasSubstr("model.weights_digest"), HasSubstr("is none"),
                    HasSubstr(server()->engine().identity().weights_digest)));

  other.model.weights_digest = std::string(200'000, 'a');  // would not fit into the metadata
  seal(other);
  EXPECT_EQ(activate_json(other).error_code(), grpc::StatusCode::FAILED_PRECONDITION);

  Schedule failed = *schedule();
  failed.quality.passed = false;
  seal(failed);
  expect(activate_json(failed), {grpc::StatusCode::FAILED_PRECONDITION, "SCHEDULE_NOT_PASSED", ""},
         "not passed");
  Schedule shape = *schedule();
  shape.layers.pop_back();
  seal(shape);
  expect(activate_json(shape), {grpc::StatusCode::FAILED_PRECONDITION, "SCHEDULE_MISMATCH", ""},
         "other shape");
  EXPECT_EQ(server()->engine().active_schedule(), nullptr);
}

// What a client's schedule says of its quality check is only a claim.
TEST_F(ServerRefusalsTest, AClientsScheduleNeedsForceWhateverItClaims) {
  const auto activate = [&](const v1::ActivateScheduleRequest& request) {
    grpc::ClientContext context;
    v1::ActivateScheduleResponse response;
    return server().calibration->ActivateSchedule(&context, request, &response);
  };
  const std::shared_ptr<const Schedule> claimed = schedule();
  ASSERT_TRUE(claimed->quality.passed);
  v1::ActivateScheduleRequest request;
  request.set_schedule_json(to_json(*claimed));
  const grpc::Status status = activate(request);
  expect(status, {grpc::StatusCode::FAILED_PRECONDITION, "SCHEDULE_NOT_VERIFIED", ""}, "claimed");
  EXPECT_EQ(server()->engine().active_schedule(), nullptr);
  // A refused schedule is not kept either.
  v1::ActivateScheduleRequest by_id;
  by_id.set_schedule_id(claimed->schedule_id);
  EXPECT_EQ(activate(by_id).error_code(), grpc::StatusCode::NOT_FOUND);
  request.set_force(true);
  EXPECT_TRUE(activate(request).ok());
  EXPECT_NE(server()->engine().active_schedule(), nullptr);
  // Whoever forced it has answered for it.
  EXPECT_TRUE(activate(by_id).ok());
}

TEST_F(ServerRefusalsTest, UnknownCalibrationsAreNotFound) {
  const Expected expected{grpc::StatusCode::NOT_FOUND, "NOT_FOUND", ""};
  {
    grpc::ClientContext context;
    v1::GetCalibrationResponse response;
    expect(server().calibration->GetCalibration(&context, {}, &response), expected, "get");
  }
  {
    grpc::ClientContext context;
    v1::CancelCalibrationResponse response;
    expect(server().calibration->CancelCalibration(&context, {}, &response), expected, "cancel");
  }
  {
    grpc::ClientContext context;
    auto reader = server().calibration->WatchCalibration(&context, {});
    v1::WatchCalibrationResponse response;
    EXPECT_FALSE(reader->Read(&response));
    expect(reader->Finish(), expected, "watch");
  }
  grpc::ClientContext context;
  v1::GetScheduleResponse response;
  expect(server().calibration->GetSchedule(&context, {}, &response), expected, "no active one");
}

// ---- Capacity ----

// A Generate that runs until its client goes away.
class Occupant {
 public:
  explicit Occupant(TestServer& server) {
    v1::GenerateRequest request;
    request.set_text("in");
    request.mutable_stopping()->set_max_new_tokens(512);
    request.mutable_stopping()->set_ignore_eos(true);
    reader_ = server.inference->Generate(&context_, request);
  }
  bool read() { return reader_->Read(&message_); }
  grpc::Status leave() {
    context_.TryCancel();
    return end();
  }
  grpc::Status end() {
    while (read()) {
    }
    return reader_->Finish();
  }

 private:
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReader<v1::GenerateResponse>> reader_;
  v1::GenerateResponse message_;
};

TEST_F(ServerRefusalsTest, AFullQueueIsToldWithItsDepthAndARetryDelay) {
  auto options = server_options(dir_.path());
  options.engine.max_sequences = 1;
  options.engine.max_queue = 1;
  start(options);
  std::vector<std::unique_ptr<Occupant>> occupants;
  grpc::Status refused;
  std::string pushback;
  // A tiny model is fast: keep adding until one is refused.
  ASSERT_TRUE(eventually([&] {
    for (int i = 0; i < 8; ++i) occupants.push_back(std::make_unique<Occupant>(server()));
    const auto stream = generate(server(), prompt());
    refused = stream.status;
    if (!refused.ok()) {
      EXPECT_TRUE(stream.messages.empty()) << "admission comes before `started`";
      pushback = stream.trailers.at("grpc-retry-pushback-ms");
    }
    return !refused.ok();
  }));
  expect(refused, {grpc::StatusCode::RESOURCE_EXHAUSTED, "QUEUE_FULL", ""}, "queue full");
  const Details details = details_of(refused);
  EXPECT_EQ(details.metadata.at("max_queue"), "1");
  EXPECT_EQ(pushback, absl::StrCat(absl::ToInt64Milliseconds(details.retry_delay)));
  EXPECT_GE(details.retry_delay, absl::Milliseconds(250));
  for (auto& occupant : occupants) occupant->leave();
  EXPECT_TRUE(all_blocks_free(server()));
}

TEST_F(ServerRefusalsTest, APromptThatTheCacheCanNeverHoldIsAPrecondition) {
  write_tiny_model({.layers = 4, .context = 4096}, dir_.path());
  auto options = server_options(dir_.path());
  options.engine.kv_memory_bytes = 32 * 4 * 2 * 2 * 8 * 4 * 12;  // 12 blocks in f32
  start(options);
  const auto stream = generate(server(), prompt(std::string(3000, 'x')));
  expect(stream.status, {grpc::StatusCode::FAILED_PRECONDITION, "CACHE_TOO_SMALL", ""}, "cache");
  EXPECT_TRUE(stream.messages.empty());
  EXPECT_FALSE(stream.trailers.contains("grpc-retry-pushback-ms")) << "it can never fit";
  EXPECT_EQ(details_of(stream.status).metadata.at("cache_tokens"), "320")
      << "each block has a copy of its keys in 4 bits, too";
}

TEST_F(ServerRefusalsTest, AComparisonNeedsTwoSequences) {
  auto options = server_options(dir_.path());
  options.engine.max_sequences = 1;
  start(options);
  v1::ScoreRequest request;
  request.add_inputs()->set_text("some text to score");
  request.mutable_attention()->set_mode(v1::ATTENTION_MODE_COMPARE);
  request.mutable_attention()->mutable_baseline()->set_kind(v1::BASELINE_KIND_STREAMING);
  const auto stream = score(server(), request);
  expect(stream.status, {grpc::StatusCode::FAILED_PRECONDITION, "TOO_MANY_RUNS", ""}, "two runs");
  EXPECT_TRUE(stream.messages.empty());
}

TEST_F(ServerRefusalsTest, AnUnknownPriorityIsABadField) {
  start(server_options(dir_.path()));
  v1::GenerateRequest request = prompt();
  request.set_priority(static_cast<v1::Priority>(7));
  expect(generate(server(), request).status,
         {grpc::StatusCode::INVALID_ARGUMENT, "INVALID_FIELD", "priority"}, "generate");
  v1::ScoreRequest texts;
  texts.add_inputs()->set_text("some text to score");
  texts.set_priority(static_cast<v1::Priority>(7));
  expect(score(server(), texts).status,
         {grpc::StatusCode::INVALID_ARGUMENT, "INVALID_FIELD", "priority"}, "score");
}

TEST_F(ServerRefusalsTest, ALargerMessageThanAllowedIsRefused) {
  auto options = server_options(dir_.path());
  options.max_message_bytes = 1 << 16;
  start(options);
  EXPECT_EQ(generate(server(), prompt(std::string(1 << 17, 'x'))).status.error_code(),
            grpc::StatusCode::RESOURCE_EXHAUSTED);
}

}  // namespace
}  // namespace kascade::testing
