// kascade.v1.Priority ↔ Priority.
#ifndef KASCADE_SERVER_GRPC_TRANSLATE_PRIORITY_H_
#define KASCADE_SERVER_GRPC_TRANSLATE_PRIORITY_H_

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/base/priority.h"
#include "engine/base/refusal.h"
#include "kascade/v1/priority.pb.h"

namespace kascade::server {

// Leaves `priority`, the method's default, if none is given. INVALID_ARGUMENT: an unknown value.
inline absl::Status read_priority(v1::Priority in, Priority& priority) {
  if (!v1::Priority_IsValid(in)) {
    return invalid_field("priority", absl::StrCat("unknown value ", int{in}));
  }
  if (in == v1::PRIORITY_INTERACTIVE) priority = Priority::kInteractive;
  if (in == v1::PRIORITY_BATCH) priority = Priority::kBatch;
  return absl::OkStatus();
}

}  // namespace kascade::server

#endif  // KASCADE_SERVER_GRPC_TRANSLATE_PRIORITY_H_
