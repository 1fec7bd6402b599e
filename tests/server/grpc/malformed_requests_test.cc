// Tests requests that cannot be parsed, of all methods of both services, unary and streaming.
#include <memory>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "google/protobuf/descriptor.h"
#include "grpcpp/generic/generic_stub.h"
#include "gtest/gtest.h"
#include "tests/support/server_fixture.h"

namespace kascade::testing {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

// Calls "/service/method" with these bytes as its only message.
grpc::Status call_with(TestServer& server, const google::protobuf::MethodDescriptor& method,
                       const std::string& bytes) {
  grpc::GenericStub stub(server.channel());
  grpc::ClientContext context;
  grpc::CompletionQueue queue;
  const std::string path = "/" + method.service()->full_name() + "/" + method.name();
  auto call = stub.PrepareUnaryCall(
      &context, path,
      [&bytes] {
        const grpc::Slice slice(bytes);
        return grpc::ByteBuffer(&slice, 1);
      }(),
      &queue);
  call->StartCall();
  grpc::ByteBuffer response;
  grpc::Status status;
  call->Finish(&response, &status, nullptr);
  void* tag = nullptr;
  bool ok = false;
  EXPECT_TRUE(queue.Next(&tag, &ok));
  return status;
}

std::vector<const google::protobuf::MethodDescriptor*> all_methods() {
  std::vector<const google::protobuf::MethodDescriptor*> methods;
  const auto* pool = google::protobuf::DescriptorPool::generated_pool();
  for (const char* name : {"kascade.v1.InferenceService", "kascade.v1.CalibrationService"}) {
    const auto* service = pool->FindServiceByName(name);
    for (int i = 0; service != nullptr && i < service->method_count(); ++i) {
      methods.push_back(service->method(i));
    }
  }
  return methods;
}

// A field of type string, encoded with bytes that are not UTF-8; empty if the message has none.
std::string bad_text_for(const google::protobuf::Descriptor& message, const std::string& bytes) {
  for (int i = 0; i < message.field_count(); ++i) {
    const auto& field = *message.field(i);
    if (field.type() != google::protobuf::FieldDescriptor::TYPE_STRING) continue;
    return std::string(
               {static_cast<char>(field.number() << 3 | 2), static_cast<char>(bytes.size())}) +
           bytes;
  }
  return "";
}

TEST_F(ServerTest, RequestsThatCannotBeParsedAreInvalid) {
  // A field that goes on behind the end, a tag of field 0, an endless number, an unknown wire type,
  // a group that does not end.
  const std::string damaged[] = {
      "\x0a\x05"
      "ab",
      std::string("\0", 1), std::string(11, '\xff'), "\x0f", "\x0b\x08\x01"};
  const auto methods = all_methods();
  ASSERT_GE(methods.size(), 14u);
  for (const auto* method : methods) {
    for (const std::string& bytes : damaged) {
      const grpc::Status status = call_with(server(), *method, bytes);
      expect(status, bad("", "MALFORMED_REQUEST"), method->full_name());
      EXPECT_THAT(status.error_message(), HasSubstr(method->input_type()->full_name()));
    }
  }
}

TEST_F(ServerTest, TextsThatAreNotUtf8AreInvalid) {
  int methods_with_text = 0;
  for (const auto* method : all_methods()) {
    // Latin-1, a lone continuation byte, a surrogate, a character that is cut off.
    for (const std::string text : {"caf\xe9", "\x80", "\xed\xa0\x80", "\xe2\x82"}) {
      const std::string bytes = bad_text_for(*method->input_type(), text);
      if (bytes.empty()) break;
      methods_with_text += text == "\x80";
      const grpc::Status status = call_with(server(), *method, bytes);
      expect(status, bad("", "MALFORMED_REQUEST"), method->full_name());
      EXPECT_THAT(status.error_message(), HasSubstr("not UTF-8"));
    }
  }
  EXPECT_GE(methods_with_text, 4);
}

TEST_F(ServerTest, MalformedRequestsAreCountedAndLeaveTheServerAlone) {
  for (const auto* method : all_methods()) call_with(server(), *method, "\x0a\x05");
  // They are counted once their connection has seen their end.
  const auto counted =
      AllOf(HasSubstr(R"(kascade_rpc_requests_total{code="INVALID_ARGUMENT",rpc="Tokenize"} 1)"),
            HasSubstr(R"(kascade_rpc_requests_total{code="INVALID_ARGUMENT",rpc="Score"} 1)"),
            HasSubstr("kascade_rpc_in_flight 0"));
  eventually([&] { return ::testing::Value(server()->metrics_text(), counted); });
  EXPECT_THAT(server()->metrics_text(), counted);
  const auto stream = generate(server(), greedy("in the", 2));
  EXPECT_TRUE(stream.status.ok()) << stream.status.error_message();
}

}  // namespace
}  // namespace kascade::testing
