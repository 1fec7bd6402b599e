// Lists that are sent a page at a time.
#ifndef KASCADE_SERVER_GRPC_PAGES_H_
#define KASCADE_SERVER_GRPC_PAGES_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "engine/base/refusal.h"

namespace kascade::server {

inline constexpr int32_t kDefaultPageSize = 50;  // entries
inline constexpr int32_t kMaxPageSize = 256;
// A page ends with the entry that makes it this large, so that clients which accept messages of at
// most 4 MiB, gRPC's default, can read it.
inline constexpr size_t kMaxPageBytes = size_t{2} << 20;

// Calls `add(item)` for the items of the page that `request` asks for, and sets the token of the
// next page in `response`, unless this is the last one. The token is the encoded id of the last
// entry: entries that are added or removed between two pages do not move the others. `id_of(item)`
// gives the item's id. INVALID_ARGUMENT names "page_size" or "page_token".
template <typename Request, typename Response, typename Items, typename IdOf, typename Add>
absl::Status fill_page(const Request& request, const Items& items, IdOf id_of, Add add,
                       Response& response) {
  int32_t left = kDefaultPageSize;
  if (request.has_page_size()) {
    absl::Status status = check_range("page_size", request.page_size(), 1, kMaxPageSize);
    if (!status.ok()) return status;
    left = request.page_size();
  }
  auto item = items.begin();
  if (!request.page_token().empty()) {
    std::string last;
    const bool is_token = absl::WebSafeBase64Unescape(request.page_token(), &last);
    if (is_token) {
      item = std::find_if(items.begin(), items.end(),
                          [&](const auto& other) { return id_of(other) == last; });
    }
    if (!is_token || item == items.end()) {
      return invalid_field("page_token",
                           "is no token of this list, or its entry is gone; begin without one");
    }
    ++item;
  }
  size_t bytes = 0;
  for (; item != items.end() && left > 0 && bytes < kMaxPageBytes; ++item, --left) {
    bytes += add(*item);
    response.set_next_page_token(absl::WebSafeBase64Escape(id_of(*item)));
  }
  if (item == items.end()) response.clear_next_page_token();
  return absl::OkStatus();
}

}  // namespace kascade::server

#endif  // KASCADE_SERVER_GRPC_PAGES_H_
