// What the commands that delete something do.
#ifndef KASCADE_CLIENT_COMMANDS_DELETION_H_
#define KASCADE_CLIENT_COMMANDS_DELETION_H_

#include <fmt/format.h>

#include <string>

#include "client/commands/commands.h"
#include "client/rpc/failure.h"
#include "client/views/reports.h"
#include "kascade/v1/calibration_service.grpc.pb.h"

namespace kascade::client {

// Calls `method`, which deletes what `request` names, and says so. `field` and `id` are of the
// request. Returns the exit code.
template <typename Method, typename Request>
int delete_by(const Globals& globals, Method method, const Request& request, const char* field,
              const std::string& id) {
  const auto deleted = connect_and_call<v1::CalibrationService>(globals, method, request);
  if (!deleted.ok()) return fail(deleted.status());
  if (globals.json) {
    print_json({{field, id}, {"deleted", true}});
  } else {
    fmt::print("{} is deleted\n", id);
  }
  return kSuccess;
}

}  // namespace kascade::client

#endif  // KASCADE_CLIENT_COMMANDS_DELETION_H_
