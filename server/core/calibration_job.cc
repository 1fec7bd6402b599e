#include "server/core/calibration_job.h"

#include <algorithm>

namespace kascade::core {
namespace {

constexpr double kLeastRateSeconds = 0.5;  // of a stage, for its rate to mean anything

}  // namespace

void CalibrationJob::end(const CalibrationEnd& end) {
  state = end.state;
  ended = end.ended;
  status = end.status;
  progress = end.progress;
  result = end.result;
}

CalibrationReport CalibrationJob::report_now() const {
  const absl::Time now = running() ? absl::Now() : ended;
  CalibrationReport out{.progress = progress, .elapsed = now - began};
  // Of a job that has ended there is nothing to predict.
  const double seconds = running() ? absl::ToDoubleSeconds(steady_now() - stage_begin) : 0;
  const bool measurable = seconds >= kLeastRateSeconds && progress.stage != CalibrationStage::kDone;
  if (const int64_t tokens = progress.done_tokens - stage_begin_tokens; measurable && tokens > 0) {
    const double rate = static_cast<double>(tokens) / seconds;
    const int64_t rest = std::max<int64_t>(0, progress.total_tokens - progress.done_tokens);
    out.tokens_per_second = rate;
    out.remaining = absl::Seconds(static_cast<double>(rest) / rate);
  }
  return out;
}

CalibrationSnapshot CalibrationJob::snapshot() const {
  CalibrationSnapshot out{.id = id(),
                          .state = state,
                          .began = began,
                          .ended = ended,
                          .report = report_now(),
                          .status = status};
  if (result) out.schedule_id = result->schedule->schedule_id;
  return out;
}

CalibrationJobPtr make_job(const PreparedCalibration& prepared) {
  auto job = std::make_shared<CalibrationJob>();
  job->started = {.id = prepared.id,
                  .data_digest = prepared.data_digest,
                  .tokens = prepared.tokens,
                  .held_out_tokens = prepared.held_out_tokens};
  job->activate = prepared.activate;
  return job;
}

}  // namespace kascade::core
