#include "server/log/request_identity.h"

#include <algorithm>
#include <cctype>
#include <cstddef>
#include <cstdint>
#include <random>

#include "absl/strings/str_cat.h"

namespace kascade::logging {
namespace {

constexpr size_t kMaxRequestIdBytes = 128;
// "00-" trace-id "-" parent-id "-" flags
constexpr size_t kTraceId = 3;
constexpr size_t kParentId = 36;
constexpr size_t kFlags = 53;
constexpr size_t kTraceparentBytes = 55;

bool is_request_id(std::string_view text) {
  return !text.empty() && text.size() <= kMaxRequestIdBytes &&
         std::ranges::all_of(text, [](unsigned char c) {
           return std::isalnum(c) != 0 || c == '-' || c == '_' || c == '.' || c == ':';
         });
}

bool is_lower_hex(std::string_view text) {
  return text.find_first_not_of("0123456789abcdef") == std::string_view::npos;
}
bool is_zero(std::string_view text) {
  return text.find_first_not_of('0') == std::string_view::npos;
}

bool is_traceparent(std::string_view text) {
  if (text.size() != kTraceparentBytes || !text.starts_with("00-")) return false;
  const std::string_view trace = text.substr(kTraceId, 32);
  const std::string_view parent = text.substr(kParentId, 16);
  return text[kParentId - 1] == '-' && text[kFlags - 1] == '-' && is_lower_hex(trace) &&
         is_lower_hex(parent) && is_lower_hex(text.substr(kFlags)) && !is_zero(trace) &&
         !is_zero(parent);
}

// 16 hexadecimal digits, not all of them 0.
std::string random_digits() {
  thread_local std::mt19937_64 generator = [] {
    std::random_device device;
    std::seed_seq seed{device(), device(), device(), device()};
    return std::mt19937_64(seed);
  }();
  uint64_t value = 0;
  while (value == 0) value = generator();
  return absl::StrCat(absl::Hex(value, absl::kZeroPad16));
}

}  // namespace

RequestIdentity identify_request(std::string_view request_id, std::string_view traceparent) {
  RequestIdentity out;
  out.request_id = is_request_id(request_id) ? std::string(request_id)
                                             : absl::StrCat(random_digits(), random_digits());
  out.traceparent =
      is_traceparent(traceparent)
          ? std::string(traceparent)
          : absl::StrCat("00-", random_digits(), random_digits(), "-", random_digits(), "-00");
  return out;
}

}  // namespace kascade::logging
