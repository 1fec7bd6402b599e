// What a request may hold, checked once at the engine's door; nothing behind it validates again.
#ifndef KASCADE_ENGINE_REQUEST_CHECK_H_
#define KASCADE_ENGINE_REQUEST_CHECK_H_

#include "absl/status/status.h"
#include "engine/model/config.h"
#include "engine/request.h"
#include "engine/schedule/schedule.h"

namespace kascade {

// INVALID_ARGUMENT names field, limit and value. FAILED_PRECONDITION: scheduled attention without a
// schedule.
absl::Status check_request(const Request& request, const ModelConfig& model);

}  // namespace kascade

#endif  // KASCADE_ENGINE_REQUEST_CHECK_H_
