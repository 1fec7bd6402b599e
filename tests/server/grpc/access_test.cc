// Tests access tokens on the wire: every method of our services with every kind of token, the
// other services of the listener, and limits of requests in flight.
#include "server/grpc/access.h"

#include <chrono>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/base/digest.h"
#include "gmock/gmock.h"
#include "google/protobuf/descriptor.h"
#include "grpcpp/generic/generic_stub.h"
#include "gtest/gtest.h"
#include "tests/support/captured_log.h"
#include "tests/support/server_fixture.h"

namespace kascade::testing {
namespace {

using ::testing::ElementsAreArray;
using ::testing::HasSubstr;
using ::testing::Not;

// Whoever adds a method decides here which scope it needs.
const std::map<std::string, std::string>& scopes_of_methods() {
  static const std::map<std::string, std::string> scopes{{"Generate", "infer"},
                                                         {"Score", "infer"},
                                                         {"ScoreStream", "infer"},
                                                         {"Trace", "infer"},
                                                         {"Tokenize", "infer"},
                                                         {"Detokenize", "infer"},
                                                         {"GetModelInfo", "infer"},
                                                         {"Calibrate", "calibrate"},
                                                         {"WatchCalibration", "calibrate"},
                                                         {"GetCalibration", "calibrate"},
                                                         {"ListCalibrations", "calibrate"},
                                                         {"CancelCalibration", "calibrate"},
                                                         {"GetSchedule", "calibrate"},
                                                         {"ListSchedules", "calibrate"},
                                                         {"ActivateSchedule", "admin"},
                                                         {"DeactivateSchedule", "admin"},
                                                         {"DeleteCalibration", "admin"},
                                                         {"DeleteSchedule", "admin"},
                                                         {"GetConfiguration", "admin"}};
  return scopes;
}

// {name: path} of all methods of both services, as the descriptors have them.
std::map<std::string, std::string> all_methods() {
  std::map<std::string, std::string> methods;
  const auto* pool = google::protobuf::DescriptorPool::generated_pool();
  for (const char* name : {"kascade.v1.InferenceService", "kascade.v1.CalibrationService",
                           "kascade.v1.ServerService"}) {
    const auto* service = pool->FindServiceByName(name);
    for (int i = 0; service != nullptr && i < service->method_count(); ++i) {
      const std::string& method = service->method(i)->name();
      methods[method] = absl::StrCat("/", name, "/", method);
    }
  }
  return methods;
}

class AccessTest : public ServerTest {
 protected:
  AccessTest() {
    // Each scope has a token of that name, whose secret is the name, too.
    std::string json = R"([{"name": "one", "scopes": ["infer"], "max_requests_in_flight": 1, )";
    absl::StrAppend(&json, R"("sha256": ")", digest("one"), R"("})");
    for (const char* scope : {"infer", "calibrate", "admin"}) {
      absl::StrAppend(&json, R"(, {"name": ")", scope, R"(", "scopes": [")", scope,
                      R"("], "sha256": ")", digest(scope), R"("})");
    }
    write_file(dir_ / "tokens.json", json + "]");
    server_.reset();
    server::ServerOptions options = server_options(dir_.path());
    options.security.tokens = dir_ / "tokens.json";
    server_ = std::make_unique<TestServer>(options);
  }

  // Sends one message, then waits for the end of the call.
  grpc::Status call(const std::string& path, const std::vector<std::string>& headers,
                    const std::string& bytes = "") {
    grpc::GenericStub stub(server().channel());
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(30));
    for (const std::string& header : headers) context.AddMetadata("authorization", header);
    grpc::CompletionQueue queue;
    const grpc::Slice slice(bytes);
    auto call = stub.PrepareUnaryCall(&context, path, grpc::ByteBuffer(&slice, 1), &queue);
    call->StartCall();
    grpc::ByteBuffer response;
    grpc::Status status;
    call->Finish(&response, &status, nullptr);
    void* tag = nullptr;
    bool ok = false;
    EXPECT_TRUE(queue.Next(&tag, &ok));
    return status;
  }
};

TEST_F(AccessTest, EveryMethodNeedsItsScope) {
  const auto methods = all_methods();
  std::vector<std::string> names;
  std::vector<std::string> decided;
  for (const auto& [name, path] : methods) names.push_back(name);
  for (const auto& [name, scope] : scopes_of_methods()) decided.push_back(name);
  ASSERT_THAT(names, ElementsAreArray(decided));
  for (const auto& [name, path] : methods) {
    SCOPED_TRACE(name);
    expect(call(path, {}), {grpc::StatusCode::UNAUTHENTICATED, "ACCESS_TOKEN_MISSING", ""}, "none");
    for (const char* header : {"infer", "Basic infer"}) {
      expect(call(path, {header}), {grpc::StatusCode::UNAUTHENTICATED, "ACCESS_TOKEN_MISSING", ""},
             header);
    }
    expect(call(path, {"Bearer wrong"}),
           {grpc::StatusCode::UNAUTHENTICATED, "ACCESS_TOKEN_UNKNOWN", ""}, "wrong");
    expect(call(path, {"Bearer infer", "Bearer admin"}),
           {grpc::StatusCode::UNAUTHENTICATED, "ACCESS_TOKEN_MISSING", ""}, "two");
    for (const std::string scope : {"infer", "calibrate", "admin"}) {
      const grpc::Status status = call(path, {"Bearer " + scope});
      const std::string& needed = scopes_of_methods().at(name);
      if (scope == needed) {
        EXPECT_NE(status.error_code(), grpc::StatusCode::UNAUTHENTICATED);
        EXPECT_NE(status.error_code(), grpc::StatusCode::PERMISSION_DENIED);
        EXPECT_NE(status.error_code(), grpc::StatusCode::UNIMPLEMENTED);
        continue;
      }
      expect(status, {grpc::StatusCode::PERMISSION_DENIED, "SCOPE_MISSING", ""}, scope);
      EXPECT_EQ(details_of(status).metadata.at("scope"), needed);
      EXPECT_THAT(status.error_message(), HasSubstr("lacks the scope \"" + needed + "\""));
    }
  }
}

TEST_F(AccessTest, ARefusedCallChangesNothing) {
  ASSERT_NO_FATAL_FAILURE(activate());
  const std::string deactivate = all_methods().at("DeactivateSchedule");
  for (const auto& headers : {std::vector<std::string>{}, {"Bearer x"}, {"Bearer calibrate"}}) {
    EXPECT_FALSE(call(deactivate, headers).ok());
  }
  EXPECT_NE(server()->engine().active_schedule(), nullptr);
  EXPECT_TRUE(call(deactivate, {"Bearer admin"}).ok());
  EXPECT_EQ(server()->engine().active_schedule(), nullptr);
}

TEST_F(AccessTest, WhoHasNoTokenLearnsNothingOfAMalformedRequest) {
  const std::string path = all_methods().at("Tokenize");
  const std::string cut_short = "\x0a\x7f";
  EXPECT_EQ(call(path, {"Bearer infer"}, cut_short).error_code(),
            grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(call(path, {}, cut_short).error_code(), grpc::StatusCode::UNAUTHENTICATED);
  EXPECT_EQ(call(path, {"Bearer admin"}, cut_short).error_code(),
            grpc::StatusCode::PERMISSION_DENIED);
}

TEST_F(AccessTest, HealthIsOpenAndReflectionNeedsAnyToken) {
  EXPECT_TRUE(call("/grpc.health.v1.Health/Check", {}).ok());
  const std::string path = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo";
  const std::string list_services = {'\x3a', '\x01', '*'};
  for (const auto& headers : {std::vector<std::string>{}, {"Bearer wrong"}}) {
    const grpc::Status status = call(path, headers, list_services);
    EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAUTHENTICATED) << status.error_message();
    EXPECT_THAT(status.error_message(), HasSubstr("access token"));
  }
  EXPECT_TRUE(call(path, {"Bearer admin"}, list_services).ok());
}

TEST_F(AccessTest, ATokenHasSoManyRequestsInFlight) {
  const auto generate_with = [&](grpc::ClientContext& context) {
    context.AddMetadata("authorization", "Bearer one");
    return server().inference->Generate(&context, greedy("in the", 400));
  };
  grpc::ClientContext first_context;
  auto first = generate_with(first_context);
  v1::GenerateResponse message;
  ASSERT_TRUE(first->Read(&message));
  const std::string info = all_methods().at("GetModelInfo");
  expect(call(info, {"Bearer one"}),
         {grpc::StatusCode::RESOURCE_EXHAUSTED, "TOO_MANY_IN_FLIGHT", ""}, "second");
  EXPECT_TRUE(call(info, {"Bearer infer"}).ok());
  first_context.TryCancel();
  while (first->Read(&message)) {
  }
  EXPECT_EQ(first->Finish().error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_TRUE(eventually([&] { return call(info, {"Bearer one"}).ok(); }));
  // Whoever has the answer may ask again at once.
  for (int i = 0; i < 50; ++i) EXPECT_TRUE(call(info, {"Bearer one"}).ok());
}

TEST_F(AccessTest, TokensStayOutOfTheLog) {
  const CapturedLog log;
  const std::string path = all_methods().at("Generate");
  EXPECT_FALSE(call(path, {"Bearer infer"}).ok());
  EXPECT_FALSE(call(path, {"Bearer unknown-secret"}).ok());
  EXPECT_FALSE(call(path, {"unknown-secret"}).ok());
  EXPECT_THAT(log.text(), HasSubstr(R"("rpc":"Generate")"));
  EXPECT_THAT(log.text(), Not(HasSubstr("unknown-secret")));
}

TEST(Access, ACallerIsKnownByItsAddressWithoutThePort) {
  EXPECT_EQ(server::peer_without_port("ipv4:10.0.0.7:50412"), "ipv4:10.0.0.7");
  EXPECT_EQ(server::peer_without_port("ipv6:%5B::1%5D:50412"), "ipv6:%5B::1%5D");
  EXPECT_EQ(server::peer_without_port("unix:/run/kascade.sock"), "unix:/run/kascade.sock");
}

// A method that nobody has thought of is for administrators.
TEST(Access, AnUnknownMethodNeedsAdmin) {
  EXPECT_EQ(server::scope_of("DeleteEverything"), security::Scope::kAdmin);
}

}  // namespace
}  // namespace kascade::testing
