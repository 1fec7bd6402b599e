#include "client/rpc/calibration_stream.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <string>

#include "client/rpc/failure.h"
#include "client/views/calibration_view.h"
#include "client/views/panel_view.h"
#include "client/views/reports.h"
#include "client/views/schedule_view.h"
#include "tools/terminal/print.h"

namespace kascade::client {
namespace {

// Says why the schedule is not activated. Returns the exit code.
int report_failed_quality_check(const v1::CalibrationResult& result) {
  const auto& quality = result.schedule().quality();
  if (quality.suspect()) {
    fmt::print(stderr, "kascade: warning: {}\n", suspect_text(result));
    print_failure(
        absl::FailedPreconditionError("the model is suspect; the schedule is kept, not activated"));
    return kQualityCheck;
  }
  if (saves_nothing(quality)) {
    print_failure(absl::FailedPreconditionError(
        fmt::format("no candidate passed the quality check: nothing is saved, since no layer "
                    "reuses the keys of another: {}",
                    no_reuse_text(result))));
    return kQualityCheck;
  }
  const std::string row = deciding_row_text(quality);
  print_failure(absl::FailedPreconditionError(
      fmt::format("no candidate passed the quality check (perplexity at most {:g} % worse; of the "
                  "best: {}{}); it is not "
                  "activated: kascade activate {} --force would",
                  quality.max_degradation_percent(), degradation_text(quality),
                  row.empty() ? "" : "; " + row, result.schedule().schedule_id())));
  return kQualityCheck;
}

absl::Status print_result(const Globals& globals, const std::string& calibration_id,
                          const v1::CalibrationResult& result) {
  if (!globals.json) {
    fmt::print("\n{}", calibration_text(result));
    return absl::OkStatus();
  }
  const auto schedule = parse_json(result.schedule_json());
  if (!schedule.ok()) return schedule.status();
  Json out = {{"calibration_id", calibration_id},
              {"passed", result.passed()},
              {"activated", result.activated()},
              {"saved_file", result.saved_file()},
              {"note", result.note()},
              {"candidates", quality_check_json(result)}};
  out.update(measurement_json(result));
  out["schedule"] = *schedule;
  print_json(out);
  return absl::OkStatus();
}

}  // namespace

void show_started(const Globals& globals, const v1::CalibrationStarted& started) {
  if (globals.json) return;
  const std::string held_out =
      started.has_held_out_tokens()
          ? fmt::format("{} of other texts held out", counted(started.held_out_tokens(), "token"))
          : "the end of each held out";
  fmt::print("Text         {}, {} for the quality check\n", counted(started.tokens(), "token"),
             held_out);
  fmt::print("Calibration  {}{}\n", started.calibration_id(),
             started.attached() ? " (was there already)" : "");
  std::fflush(stdout);
}

Progress progress_of(const v1::CalibrationProgress& progress) {
  std::string stage = name_of(progress.stage());
  if (progress.stage() == v1::CALIBRATION_STAGE_GATING && progress.candidate_anchors() > 0) {
    stage += fmt::format(", {}", counted(progress.candidate_anchors(), "anchor"));
  }
  Progress shown{.stage = std::move(stage),
                 .done = progress.tokens_done(),
                 .total = progress.tokens_total(),
                 .tokens_per_second = progress.tokens_per_second()};
  if (progress.has_eta_seconds()) shown.eta_seconds = progress.eta_seconds();
  return shown;
}

int report_calibration(const Globals& globals, const Followed& followed, ResultFile& out) {
  const std::string id = followed.started ? followed.started->calibration_id() : "";
  if (followed.interrupted && !id.empty() && !followed.result) {
    return fail(absl::CancelledError(fmt::format(
        "detached; the calibration goes on: kascade watch {} follows it, kascade cancel {} ends it",
        id, id)));
  }
  if (!followed.status.ok()) return fail(followed.status);
  if (!followed.result) return fail(absl::InternalError("the server sent no result"));
  const v1::CalibrationResult& result = *followed.result;
  absl::Status status = out.commit(result.schedule_json());
  status.Update(print_result(globals, id, result));
  if (!status.ok()) return fail(status);
  const auto& quality = result.schedule().quality();
  if (!quality.suspect() && quality.has_doubt()) {
    fmt::print(stderr, "kascade: warning: {}. Usual causes: {}\n", quality.doubt(),
               fmt::join(result.suspect_causes(), "; "));
  }
  return result.passed() ? kSuccess : report_failed_quality_check(result);
}

}  // namespace kascade::client
