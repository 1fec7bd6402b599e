// How a request is known beyond this server: its id, and its place in a distributed trace.
#ifndef KASCADE_SERVER_LOG_REQUEST_IDENTITY_H_
#define KASCADE_SERVER_LOG_REQUEST_IDENTITY_H_

#include <string>
#include <string_view>

namespace kascade::logging {

inline constexpr char kRequestIdHeader[] = "x-request-id";
inline constexpr char kTraceparentHeader[] = "traceparent";

struct RequestIdentity {
  std::string request_id{};
  std::string traceparent{};
};

// What the client sent in the two headers, where it is valid, else new random values: 32
// hexadecimal digits, and a traceparent that begins a trace and is not sampled. `request_id` is
// valid with 1 to 128 letters, digits, '-', '_', '.', ':'; `traceparent` as W3C Trace Context
// defines version 00. Thread-safe.
RequestIdentity identify_request(std::string_view request_id, std::string_view traceparent);

}  // namespace kascade::logging

#endif  // KASCADE_SERVER_LOG_REQUEST_IDENTITY_H_
