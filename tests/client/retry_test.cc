// Tests which calls the client sends again when a server does not take them.
#include <atomic>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "client/rpc/call.h"
#include "grpcpp/server.h"
#include "grpcpp/server_builder.h"
#include "gtest/gtest.h"
#include "kascade/v1/calibration_service.grpc.pb.h"
#include "kascade/v1/inference_service.grpc.pb.h"

namespace kascade::client {
namespace {

grpc::Status going_down() { return {grpc::StatusCode::UNAVAILABLE, "the server is draining"}; }

// Refuses the first calls, and ends generations after they have begun.
class Inference final : public v1::InferenceService::Service {
 public:
  std::atomic<int> calls = 0;
  int refusals = 0;

 private:
  grpc::Status GetModelInfo(grpc::ServerContext* context, const v1::GetModelInfoRequest*,
                            v1::GetModelInfoResponse*) override {
    if (++calls > refusals) return grpc::Status::OK;
    context->AddTrailingMetadata("grpc-retry-pushback-ms", "1");
    return going_down();
  }
  grpc::Status Generate(grpc::ServerContext*, const v1::GenerateRequest*,
                        grpc::ServerWriter<v1::GenerateResponse>* writer) override {
    ++calls;
    v1::GenerateResponse response;
    response.mutable_started()->set_prompt_tokens(1);
    writer->Write(response);
    return going_down();
  }
};

class Calibration final : public v1::CalibrationService::Service {
 public:
  std::atomic<int> calls = 0;

 private:
  grpc::Status ActivateSchedule(grpc::ServerContext*, const v1::ActivateScheduleRequest*,
                                v1::ActivateScheduleResponse*) override {
    ++calls;
    return going_down();
  }
};

class RetryTest : public ::testing::Test {
 protected:
  RetryTest() {
    int port = 0;
    grpc::ServerBuilder builder;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
    builder.RegisterService(&inference_);
    builder.RegisterService(&calibration_);
    server_ = builder.BuildAndStart();
    globals_.server = absl::StrCat("127.0.0.1:", port);
  }
  absl::Status ask_for_the_model() {
    return connect_and_call<v1::InferenceService>(
               globals_, &v1::InferenceService::Stub::GetModelInfo, v1::GetModelInfoRequest())
        .status();
  }

  Inference inference_;
  Calibration calibration_;
  std::unique_ptr<grpc::Server> server_;
  Globals globals_;
};

TEST_F(RetryTest, ARefusedCallIsSentAgain) {
  inference_.refusals = 2;
  EXPECT_TRUE(ask_for_the_model().ok());
  EXPECT_EQ(inference_.calls, 3);
}

TEST_F(RetryTest, NotForEver) {
  inference_.refusals = 100;
  EXPECT_TRUE(absl::IsUnavailable(ask_for_the_model()));
  EXPECT_EQ(inference_.calls, 4);
}

TEST_F(RetryTest, ACallThatHasBegunIsNotSentAgain) {
  const auto channel = connect(globals_);
  ASSERT_TRUE(channel.ok());
  const auto stub = v1::InferenceService::NewStub(*channel);
  Call call(globals_);
  const auto reader = stub->Generate(&call.context(), {});
  v1::GenerateResponse response;
  while (reader->Read(&response)) {
  }
  EXPECT_TRUE(absl::IsUnavailable(call.result(reader->Finish())));
  EXPECT_EQ(inference_.calls, 1);
}

TEST_F(RetryTest, WhatChangesTheServerIsNotSentAgain) {
  EXPECT_TRUE(absl::IsUnavailable(
      connect_and_call<v1::CalibrationService>(
          globals_, &v1::CalibrationService::Stub::ActivateSchedule, v1::ActivateScheduleRequest())
          .status()));
  EXPECT_EQ(calibration_.calls, 1);
}

}  // namespace
}  // namespace kascade::client
