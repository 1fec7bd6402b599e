// Calls of an RPC server as bytes, so that a fuzzer can make up sequences of them. A call is
//   1 byte   method: an index into kMethods, modulo their number
//   1 byte   what its client does, see Client
//   2 bytes  size of the request, the low byte first; cut to what is left
//   the request: a serialized message, or bytes that are none
// What is too short for a call at the end is ignored.
#ifndef KASCADE_TESTS_FUZZ_REQUEST_SEQUENCE_H_
#define KASCADE_TESTS_FUZZ_REQUEST_SEQUENCE_H_

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "google/protobuf/descriptor.h"
#include "google/protobuf/message.h"
#include "kascade/v1/calibration_service.pb.h"
#include "kascade/v1/inference_service.pb.h"

namespace kascade::testing {

// What the client does, from the bits of one byte.
struct Client {
  int messages_before_cancel = -1;  // bits 0 and 1: 0 to 2 messages are read first; −1: no cancel
  bool waits_for_end = true;        // bit 2: whether the next call begins before this one has ended
  bool has_short_deadline = false;  // bit 3
  bool reads = true;                // bit 4: else it only waits for the status

  static Client from_byte(uint8_t byte) {
    return {.messages_before_cancel = static_cast<int>(byte & 3) - 1,
            .waits_for_end = (byte & 4) == 0,
            .has_short_deadline = (byte & 8) != 0,
            .reads = (byte & 16) == 0};
  }
};

struct EncodedCall {
  uint8_t method = 0;
  uint8_t client = 0;
  std::string request{};
};

inline std::vector<EncodedCall> parse_calls(std::string_view bytes) {
  std::vector<EncodedCall> calls;
  while (bytes.size() >= 4) {
    const auto byte = [&](size_t i) { return static_cast<uint8_t>(bytes[i]); };
    const size_t size = byte(2) + size_t{256} * byte(3);
    EncodedCall call{.method = byte(0), .client = byte(1)};
    bytes.remove_prefix(4);
    call.request = bytes.substr(0, size);
    bytes.remove_prefix(call.request.size());
    calls.push_back(std::move(call));
  }
  return calls;
}

inline std::string to_bytes(const std::vector<EncodedCall>& calls) {
  std::string bytes;
  for (const EncodedCall& call : calls) {
    const std::string_view request = std::string_view(call.request).substr(0, 0xffff);
    bytes.push_back(static_cast<char>(call.method));
    bytes.push_back(static_cast<char>(call.client));
    bytes.push_back(static_cast<char>(request.size() & 0xff));
    bytes.push_back(static_cast<char>(request.size() >> 8));
    bytes += request;
  }
  return bytes;
}

// All methods of both services, in the order of the files.
inline const std::vector<const google::protobuf::MethodDescriptor*>& methods() {
  static const auto* all = [] {
    auto* found = new std::vector<const google::protobuf::MethodDescriptor*>;
    for (const auto* file : {v1::GetModelInfoRequest::descriptor()->file(),
                             v1::CalibrateRequest::descriptor()->file()}) {
      for (int service = 0; service < file->service_count(); ++service) {
        for (int i = 0; i < file->service(service)->method_count(); ++i) {
          found->push_back(file->service(service)->method(i));
        }
      }
    }
    return found;
  }();
  return *all;
}

inline const google::protobuf::MethodDescriptor& method_of(const EncodedCall& call) {
  return *methods()[call.method % methods().size()];
}

inline std::unique_ptr<google::protobuf::Message> new_request(const EncodedCall& call) {
  const auto* type = method_of(call).input_type();
  return std::unique_ptr<google::protobuf::Message>(
      google::protobuf::MessageFactory::generated_factory()->GetPrototype(type)->New());
}

}  // namespace kascade::testing

#endif  // KASCADE_TESTS_FUZZ_REQUEST_SEQUENCE_H_
