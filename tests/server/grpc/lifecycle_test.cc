// Tests the start of a server, health, draining, and the errors that prevent a start.
#include <atomic>
#include <fstream>
#include <future>
#include <memory>
#include <string>
#include <thread>

#include "gmock/gmock.h"
#include "google/protobuf/descriptor.h"
#include "grpcpp/generic/generic_stub.h"
#include "gtest/gtest.h"
#include "tests/support/engine_client.h"
#include "tests/support/test_server.h"

namespace kascade::testing {
namespace {

using ::testing::HasSubstr;

class ServerLifecycleTest : public ::testing::Test {
 protected:
  ServerLifecycleTest() { write_tiny_model({.layers = 4, .context = 512}, dir_.path()); }
  std::string error_of(const server::ServerOptions& options) {
    const auto server = server::Server::start(options);
    EXPECT_FALSE(server.ok());
    return std::string(server.status().message());
  }
  Schedule schedule(const Engine& engine, std::vector<int32_t> anchors = {1}) {
    auto schedule = make_schedule(engine, anchors, {.query_tile = 16, .min_keys = 8});
    schedule->created_at = "2026-01-02T03:04:05Z";
    schedule->quality.passed = true;
    seal(*schedule);
    return *schedule;
  }

  TempDir dir_;
};

// grpc.health.v1 by hand: HealthCheckRequest{service = 1}, HealthCheckResponse{status = 1}.
constexpr char kServing = 1;
constexpr char kNotServing = 2;

grpc::ByteBuffer health_request(const std::string& service) {
  std::string bytes;
  if (!service.empty()) bytes = std::string("\x0a") + static_cast<char>(service.size()) + service;
  const grpc::Slice slice(bytes);
  return {&slice, 1};
}

char health_status(const grpc::ByteBuffer& response) {
  std::vector<grpc::Slice> slices;
  EXPECT_TRUE(response.Dump(&slices).ok());
  std::string bytes;
  for (const auto& slice : slices) bytes.append(slice.begin(), slice.end());
  return bytes.size() == 2 && bytes[0] == 0x08 ? bytes[1] : '\0';
}

char check_health(TestServer& server, const std::string& service) {
  grpc::GenericStub stub(server.channel());
  grpc::ClientContext context;
  grpc::CompletionQueue queue;
  auto call = stub.PrepareUnaryCall(&context, "/grpc.health.v1.Health/Check",
                                    health_request(service), &queue);
  call->StartCall();
  grpc::ByteBuffer response;
  grpc::Status status;
  call->Finish(&response, &status, nullptr);
  void* tag = nullptr;
  bool ok = false;
  EXPECT_TRUE(queue.Next(&tag, &ok));
  EXPECT_TRUE(status.ok()) << status.error_message();
  return health_status(response);
}

// Health/Watch of a service.
class HealthWatch {
 public:
  explicit HealthWatch(TestServer& server, const std::string& service = "")
      : stub_(server.channel()) {
    call_ = stub_.PrepareCall(&context_, "/grpc.health.v1.Health/Watch", &queue_);
    call_->StartCall(nullptr);
    next();
    call_->Write(health_request(service), nullptr);
    next();
  }
  ~HealthWatch() {
    context_.TryCancel();
    grpc::Status status;
    call_->Finish(&status, nullptr);
    next();
  }
  char next_status() {
    grpc::ByteBuffer response;
    call_->Read(&response, nullptr);
    return next() ? health_status(response) : '\0';
  }

 private:
  bool next() {
    void* tag = nullptr;
    bool ok = false;
    return queue_.Next(&tag, &ok) && ok;
  }

  grpc::GenericStub stub_;
  grpc::ClientContext context_;
  grpc::CompletionQueue queue_;
  std::unique_ptr<grpc::GenericClientAsyncReaderWriter> call_;
};

TEST_F(ServerLifecycleTest, HealthIsServingForTheServerAndItsServices) {
  TestServer server(server_options(dir_.path()));
  EXPECT_EQ(server->lifecycle(), server::Lifecycle::kServing);
  for (const char* service : {"", "kascade.v1.InferenceService", "kascade.v1.CalibrationService",
                              "kascade.v1.ServerService"}) {
    EXPECT_EQ(check_health(server, service), kServing) << service;
  }
  EXPECT_EQ(check_health(server, "liveness"), kServing);
}

TEST_F(ServerLifecycleTest, AServerWhoseEngineStandsStillIsNotLive) {
  auto options = server_options(dir_.path());
  options.stall_seconds = 1;
  TestServer server(options);
  HealthWatch watch(server, "liveness");
  EXPECT_EQ(watch.next_status(), kServing);
  std::promise<void> go_on;
  const std::shared_future<void> may_go_on = go_on.get_future().share();
  const Request request{.tokens = {1, 2, 3}, .task = Generate{.max_new_tokens = 3}};
  // The sink runs on the engine's thread.
  ASSERT_TRUE(server->engine().submit(request, [=](const Event&) { may_go_on.wait(); }).ok());
  EXPECT_EQ(watch.next_status(), kNotServing);
  EXPECT_THAT(server->metrics_text(), HasSubstr("kascade_engine_stalled 1"));
  EXPECT_EQ(check_health(server, ""), kServing);  // ready all the same
  go_on.set_value();
  EXPECT_EQ(watch.next_status(), kServing);
  EXPECT_THAT(server->metrics_text(), HasSubstr("kascade_engine_stalled 0"));
}

TEST_F(ServerLifecycleTest, ReflectionKnowsBothServices) {
  const auto* pool = google::protobuf::DescriptorPool::generated_pool();
  EXPECT_NE(pool->FindServiceByName("kascade.v1.InferenceService"), nullptr);
  EXPECT_NE(pool->FindServiceByName("kascade.v1.CalibrationService"), nullptr);
}

TEST_F(ServerLifecycleTest, DrainingTurnsHealthRefusesAndFinishesWhatRuns) {
  TestServer server(server_options(dir_.path()));
  HealthWatch watch(server);
  EXPECT_EQ(watch.next_status(), kServing);

  v1::GenerateRequest request;
  request.set_text("in the");
  request.mutable_stopping()->set_max_new_tokens(500);
  request.mutable_stopping()->set_ignore_eos(true);
  grpc::ClientContext context;
  auto reader = server.inference->Generate(&context, request);
  v1::GenerateResponse message;
  ASSERT_TRUE(reader->Read(&message));

  std::thread drain([&] { server->drain(absl::Seconds(60)); });
  EXPECT_EQ(watch.next_status(), kNotServing);
  EXPECT_EQ(check_health(server, "liveness"), kServing);  // not the reason to end the server now
  int32_t tokens = 0;
  while (reader->Read(&message)) tokens += message.delta().token_count();
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_EQ(tokens, 500);
  drain.join();
  EXPECT_EQ(server->lifecycle(), server::Lifecycle::kStopped);
  EXPECT_EQ(generate(server, request).status.error_code(), grpc::StatusCode::UNAVAILABLE);
}

TEST_F(ServerLifecycleTest, RequestsAreAcceptedUntilItDrains) {
  TestServer server(server_options(dir_.path()));
  HealthWatch watch(server);
  EXPECT_EQ(watch.next_status(), kServing);
  v1::GenerateRequest request;
  request.set_text("in the");
  request.mutable_stopping()->set_max_new_tokens(3);
  server->leave();
  EXPECT_EQ(watch.next_status(), kNotServing);
  EXPECT_EQ(server->lifecycle(), server::Lifecycle::kLeaving);
  EXPECT_TRUE(generate(server, request).status.ok());
  server->close_listener();
  EXPECT_TRUE(generate(server, request).status.ok()) << "on a connection that exists";
  grpc::ChannelArguments own_connection;
  own_connection.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  const auto late = grpc::CreateCustomChannel(absl::StrCat("127.0.0.1:", server->port()),
                                              grpc::InsecureChannelCredentials(), own_connection);
  late->GetState(true);
  const auto soon = std::chrono::system_clock::now() + std::chrono::seconds(10);
  for (auto state = late->GetState(true); state != GRPC_CHANNEL_TRANSIENT_FAILURE;) {
    ASSERT_NE(state, GRPC_CHANNEL_READY);
    ASSERT_TRUE(late->WaitForStateChange(state, soon));
    state = late->GetState(true);
  }
}

TEST_F(ServerLifecycleTest, NewRequestsAreTurnedAwayWhileDraining) {
  TestServer server(server_options(dir_.path()));
  v1::GenerateRequest request;
  request.set_text("in the");
  request.mutable_stopping()->set_max_new_tokens(500);
  request.mutable_stopping()->set_ignore_eos(true);
  server->engine().drain(absl::ZeroDuration());
  const auto refused = generate(server, request);
  EXPECT_EQ(refused.status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_TRUE(refused.messages.empty()) << "so that a proxy or gRPC itself may try another server";
  const Details details = details_of(refused.status);
  EXPECT_EQ(details.reason, "DRAINING");
  EXPECT_TRUE(details.retry);
  EXPECT_EQ(refused.trailers.at("grpc-retry-pushback-ms"),
            absl::StrCat(absl::ToInt64Milliseconds(details.retry_delay)));
}

TEST_F(ServerLifecycleTest, WhatOutlastsTheGraceIsCancelledAsUnavailable) {
  TestServer server(server_options(dir_.path()));
  v1::ScoreRequest request;
  for (int i = 0; i < 4000; ++i) request.add_inputs()->set_text(std::string(300, 'x'));
  grpc::ClientContext context;
  auto reader = server.inference->Score(&context, request);
  v1::ScoreResponse message;
  ASSERT_TRUE(reader->Read(&message));
  server->drain(absl::Milliseconds(50));
  while (reader->Read(&message)) {
  }
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::UNAVAILABLE);
}

TEST_F(ServerLifecycleTest, ABusyPortIsAClearError) {
  auto options = server_options(dir_.path());
  options.metrics_listen = "127.0.0.1:0";
  TestServer first(options);
  options = server_options(dir_.path());
  options.listen = absl::StrCat("127.0.0.1:", first->port());
  EXPECT_THAT(error_of(options), HasSubstr("cannot listen on " + options.listen));
  options = server_options(dir_.path());
  options.metrics_listen = absl::StrCat("127.0.0.1:", first->metrics_port());
  EXPECT_THAT(error_of(options), HasSubstr("metrics: cannot listen on " + options.metrics_listen));
}

TEST_F(ServerLifecycleTest, ABadModelFolderIsAClearError) {
  EXPECT_THAT(error_of(server_options(dir_ / "absent")), HasSubstr("absent"));
  write_file(dir_ / "config.json", "{}");
  EXPECT_THAT(error_of(server_options(dir_.path())), HasSubstr("config.json"));
}

TEST_F(ServerLifecycleTest, TheScheduleDirectoryKeepsSchedulesAndWhichOneIsActive) {
  auto options = server_options(dir_.path());
  options.schedule_directory = dir_ / "schedules";
  std::string id;
  {
    TestServer server(options);
    EXPECT_EQ(server->engine().active_schedule(), nullptr);
    for (const int anchor : {1, 2}) {
      v1::ActivateScheduleRequest request;
      request.set_schedule_json(to_json(schedule(server->engine(), {anchor})));
      request.set_force(true);
      grpc::ClientContext context;
      v1::ActivateScheduleResponse response;
      ASSERT_TRUE(server.calibration->ActivateSchedule(&context, request, &response).ok());
      EXPECT_TRUE(std::filesystem::exists(response.saved_file()));
    }
    id = server->engine().active_schedule()->schedule_id;
  }
  write_file(options.schedule_directory / "broken.json", "{");
  {
    TestServer server(options);
    ASSERT_NE(server->engine().active_schedule(), nullptr);
    EXPECT_EQ(server->engine().active_schedule()->schedule_id, id);
    grpc::ClientContext context;
    v1::ListSchedulesResponse schedules;
    ASSERT_TRUE(server.calibration->ListSchedules(&context, {}, &schedules).ok());
    EXPECT_EQ(schedules.schedules_size(), 2);
    EXPECT_EQ(schedules.active_schedule_id(), id);
    grpc::ClientContext second;
    v1::DeactivateScheduleResponse response;
    ASSERT_TRUE(server.calibration->DeactivateSchedule(&second, {}, &response).ok());
    EXPECT_EQ(response.schedule_id(), id);
  }
  TestServer server(options);
  EXPECT_EQ(server->engine().active_schedule(), nullptr);
}

TEST_F(ServerLifecycleTest, OfTooManyScheduleFilesTheNewestAreKept) {
  auto options = server_options(dir_.path());
  options.schedule_directory = dir_ / "schedules";
  std::filesystem::create_directories(options.schedule_directory);
  {
    TestServer server(options);
    Schedule made = schedule(server->engine());
    for (int i = 0; i < 260; ++i) {  // the newest has the first name
      made.created_at = absl::StrCat(2300 - i, "-01-02T03:04:05Z");
      seal(made);
      ASSERT_TRUE(
          save_schedule(made, options.schedule_directory / absl::StrCat(1000 + i, ".json")).ok());
    }
  }
  const auto left_over = options.schedule_directory / ".abc.json.x7Yz01";
  write_file(left_over, "{");
  TestServer server(options);
  EXPECT_FALSE(std::filesystem::exists(left_over));
  grpc::ClientContext context;
  v1::ListSchedulesRequest request;
  request.set_page_size(256);
  v1::ListSchedulesResponse schedules;
  ASSERT_TRUE(server.calibration->ListSchedules(&context, request, &schedules).ok());
  EXPECT_EQ(schedules.next_page_token(), "");
  ASSERT_EQ(schedules.schedules_size(), 256);
  EXPECT_EQ(schedules.schedules(0).created_at().seconds(), 10413889445);   // in 2300
  EXPECT_EQ(schedules.schedules(255).created_at().seconds(), 2366939045);  // in 2045
}

TEST_F(ServerLifecycleTest, AScheduleFileIsActivatedAtStartOrItsErrorStopsTheServer) {
  auto options = server_options(dir_.path());
  Schedule made;
  {
    TestServer server(options);
    made = schedule(server->engine());
  }
  options.schedule_file = dir_ / "schedule.json";
  ASSERT_TRUE(save_schedule(made, options.schedule_file).ok());
  {
    TestServer server(options);
    ASSERT_NE(server->engine().active_schedule(), nullptr);
    EXPECT_EQ(server->engine().active_schedule()->schedule_id, made.schedule_id);
  }
  made.model.weights_digest = std::string(64, 'b');
  seal(made);
  ASSERT_TRUE(save_schedule(made, options.schedule_file).ok());
  EXPECT_THAT(error_of(options), HasSubstr(std::string(64, 'b')));
  made.model = {};
  seal(made);
  ASSERT_TRUE(save_schedule(made, options.schedule_file).ok());
  EXPECT_THAT(error_of(options), HasSubstr("model.weights_digest"));
}

}  // namespace
}  // namespace kascade::testing
