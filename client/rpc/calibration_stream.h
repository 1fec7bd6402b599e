// Follows a calibration. The stream is the same for the client that started it and for one that
// joined later.
#ifndef KASCADE_CLIENT_RPC_CALIBRATION_STREAM_H_
#define KASCADE_CLIENT_RPC_CALIBRATION_STREAM_H_

#include <optional>

#include "client/commands/files.h"
#include "client/rpc/call.h"
#include "kascade/v1/calibration_service.pb.h"
#include "tools/terminal/progress.h"

namespace kascade::client {

// The contents of the stream.
struct Followed {
  std::optional<v1::CalibrationStarted> started{};
  std::optional<v1::CalibrationResult> result{};
  absl::Status status{};
  bool interrupted = false;
};

void show_started(const Globals& globals, const v1::CalibrationStarted& started);
Progress progress_of(const v1::CalibrationProgress& progress);

// Reads the stream to its end, or only until the calibration has started if `detach`. Response is
// CalibrateResponse or WatchCalibrationResponse, which have the same events.
template <typename Response, typename Reader>
Followed follow(const Globals& globals, Call& call, Reader& reader, bool detach) {
  Followed followed;
  ProgressDisplay display;
  Response response;
  while (reader.Read(&response)) {
    if (response.has_started()) {
      followed.started = response.started();
      if (detach) call.cancel();
      if (!detach) show_started(globals, response.started());
    } else if (response.has_progress() &&
               response.progress().stage() != v1::CALIBRATION_STAGE_DONE) {
      display.show(progress_of(response.progress()));
    } else if (response.has_result()) {
      followed.result = response.result();
    }
  }
  display.finish();
  followed.status = call.result(reader.Finish());
  followed.interrupted = call.interrupted();
  return followed;
}

// Prints the result, or the reason why there is none, and returns the exit code.
int report_calibration(const Globals& globals, const Followed& followed, ResultFile& out);

}  // namespace kascade::client

#endif  // KASCADE_CLIENT_RPC_CALIBRATION_STREAM_H_
