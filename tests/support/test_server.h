// Starts a complete server with a tiny random model on a free loopback port, and makes blocking
// calls to it.
#ifndef KASCADE_TESTS_SUPPORT_TEST_SERVER_H_
#define KASCADE_TESTS_SUPPORT_TEST_SERVER_H_

#include <chrono>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "grpcpp/grpcpp.h"
#include "gtest/gtest.h"
#include "kascade/v1/calibration_service.grpc.pb.h"
#include "kascade/v1/error_details.pb.h"
#include "kascade/v1/inference_service.grpc.pb.h"
#include "kascade/v1/server_service.grpc.pb.h"
#include "server/grpc/server.h"
#include "tests/support/tiny_model.h"

namespace kascade::testing {

inline server::ServerOptions server_options(const std::filesystem::path& model) {
  server::ServerOptions options;
  options.engine.model_directory = model;
  options.engine.max_sequences = 8;
  options.engine.max_batch_tokens = 264;
  options.engine.threads = 1;
  options.listen = "127.0.0.1:0";
  options.metrics_listen = "";  // closing an HTTP listener takes two seconds
  return options;
}

class TestServer {
 public:
  explicit TestServer(const server::ServerOptions& options,
                      const std::shared_ptr<grpc::ChannelCredentials>& credentials =
                          grpc::InsecureChannelCredentials()) {
    auto started = server::Server::start(options);
    if (!started.ok()) {
      ADD_FAILURE() << started.status();
      std::abort();
    }
    server_ = *std::move(started);
    channel_ = grpc::CreateChannel(absl::StrCat("127.0.0.1:", server_->port()), credentials);
    inference = v1::InferenceService::NewStub(channel_);
    calibration = v1::CalibrationService::NewStub(channel_);
    operation = v1::ServerService::NewStub(channel_);
  }

  server::Server& operator*() { return *server_; }
  server::Server* operator->() { return server_.get(); }
  const std::shared_ptr<grpc::Channel>& channel() const { return channel_; }

  std::unique_ptr<v1::InferenceService::Stub> inference;
  std::unique_ptr<v1::CalibrationService::Stub> calibration;
  std::unique_ptr<v1::ServerService::Stub> operation;

 private:
  std::unique_ptr<server::Server> server_;
  std::shared_ptr<grpc::Channel> channel_;
};

// The messages of a stream and its final status.
template <typename Message>
struct Stream {
  std::vector<Message> messages;
  grpc::Status status;
  std::map<std::string, std::string> trailers{};  // filled in by generate()
};

inline Stream<v1::GenerateResponse> generate(TestServer& server,
                                             const v1::GenerateRequest& request) {
  Stream<v1::GenerateResponse> out;
  grpc::ClientContext context;
  auto reader = server.inference->Generate(&context, request);
  for (v1::GenerateResponse message; reader->Read(&message);) out.messages.push_back(message);
  out.status = reader->Finish();
  for (const auto& [name, value] : context.GetServerTrailingMetadata()) {
    out.trailers.emplace(std::string(name.data(), name.size()),
                         std::string(value.data(), value.size()));
  }
  return out;
}

inline Stream<v1::ScoreResponse> score(TestServer& server, const v1::ScoreRequest& request) {
  Stream<v1::ScoreResponse> out;
  grpc::ClientContext context;
  auto reader = server.inference->Score(&context, request);
  for (v1::ScoreResponse message; reader->Read(&message);) out.messages.push_back(message);
  out.status = reader->Finish();
  return out;
}

inline Stream<v1::CalibrateResponse> calibrate(TestServer& server,
                                               const v1::CalibrateRequest& request) {
  Stream<v1::CalibrateResponse> out;
  grpc::ClientContext context;
  auto reader = server.calibration->Calibrate(&context, request);
  for (v1::CalibrateResponse message; reader->Read(&message);) out.messages.push_back(message);
  out.status = reader->Finish();
  return out;
}

// The machine-readable details of a failed call.
struct Details {
  std::string reason;
  std::string domain;
  std::map<std::string, std::string> metadata;
  std::string field;         // the field that BadRequest names
  std::string precondition;  // the type of the PreconditionFailure
  bool retry = false;        // whether there is a RetryInfo with a delay
  absl::Duration retry_delay = absl::ZeroDuration();
};

inline Details details_of(const grpc::Status& status) {
  Details out;
  v1::RpcStatus rpc;
  EXPECT_TRUE(rpc.ParseFromString(status.error_details()));
  EXPECT_EQ(rpc.code(), static_cast<int>(status.error_code()));
  EXPECT_EQ(rpc.message(), status.error_message());
  const std::string prefix = "type.googleapis.com/google.rpc.";
  for (const auto& any : rpc.details()) {
    if (any.type_url() == prefix + "ErrorInfo") {
      v1::ErrorInfo info;
      EXPECT_TRUE(info.ParseFromString(any.value()));
      out.reason = info.reason();
      out.domain = info.domain();
      out.metadata.insert(info.metadata().begin(), info.metadata().end());
    } else if (any.type_url() == prefix + "BadRequest") {
      v1::BadRequest bad;
      EXPECT_TRUE(bad.ParseFromString(any.value()));
      EXPECT_EQ(bad.field_violations_size(), 1);
      out.field = bad.field_violations(0).field();
      EXPECT_FALSE(bad.field_violations(0).description().empty());
    } else if (any.type_url() == prefix + "PreconditionFailure") {
      v1::PreconditionFailure failure;
      EXPECT_TRUE(failure.ParseFromString(any.value()));
      EXPECT_EQ(failure.violations_size(), 1);
      out.precondition = failure.violations(0).type();
    } else if (any.type_url() == prefix + "RetryInfo") {
      v1::RetryInfo retry;
      EXPECT_TRUE(retry.ParseFromString(any.value()));
      out.retry_delay = absl::Seconds(retry.retry_delay().seconds()) +
                        absl::Nanoseconds(retry.retry_delay().nanos());
      out.retry = out.retry_delay > absl::ZeroDuration();
    } else {
      ADD_FAILURE() << "unexpected detail " << any.type_url();
    }
  }
  EXPECT_EQ(out.domain, "kascade");
  return out;
}

// The expected error of a call.
struct Expected {
  grpc::StatusCode code;
  std::string reason;
  std::string field;  // the field that BadRequest names; empty if there is none
};

inline void expect(const grpc::Status& status, const Expected& expected, const std::string& what) {
  SCOPED_TRACE(what + ": " + status.error_message());
  ASSERT_EQ(status.error_code(), expected.code);
  const Details details = details_of(status);
  EXPECT_EQ(details.reason, expected.reason);
  EXPECT_EQ(details.field, expected.field);
  const bool retry = expected.code == grpc::StatusCode::RESOURCE_EXHAUSTED ||
                     expected.code == grpc::StatusCode::UNAVAILABLE;
  EXPECT_EQ(details.retry, retry);
  const bool precondition = expected.code == grpc::StatusCode::FAILED_PRECONDITION;
  EXPECT_EQ(details.precondition, precondition ? expected.reason : "");
}

inline Expected bad(const std::string& field, const std::string& reason = "INVALID_FIELD") {
  return {grpc::StatusCode::INVALID_ARGUMENT, reason, field};
}

// Polls until `condition` is true. Returns false after 60 seconds.
template <typename Condition>
bool eventually(Condition condition) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (!condition()) {
    if (std::chrono::steady_clock::now() > deadline) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return true;
}

inline bool all_blocks_free(TestServer& server) {
  return eventually([&] {
    const EngineStats stats = server->engine().stats();
    return stats.free_blocks == stats.total_blocks && stats.running == 0 && stats.waiting == 0;
  });
}

}  // namespace kascade::testing

#endif  // KASCADE_TESTS_SUPPORT_TEST_SERVER_H_
