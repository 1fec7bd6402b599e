#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <memory>
#include <string>

#include "client/commands/commands.h"
#include "client/commands/deletion.h"
#include "client/rpc/calibration_stream.h"
#include "client/rpc/failure.h"
#include "client/views/reports.h"
#include "kascade/v1/calibration_service.grpc.pb.h"
#include "tools/terminal/print.h"

namespace kascade::client {
namespace {

using Stub = v1::CalibrationService::Stub;

double share_done(const v1::CalibrationProgress& progress) {
  if (progress.tokens_total() <= 0) return 0;
  return static_cast<double>(progress.tokens_done()) / static_cast<double>(progress.tokens_total());
}

Json job_json(const v1::Calibration& job) {
  return {{"calibration_id", job.calibration_id()},
          {"state", name_of(job.state())},
          {"started_at", time_text(job.started_at())},
          {"ended_at", time_text(job.ended_at())},
          {"stage", name_of(job.progress().stage())},
          {"tokens_done", job.progress().tokens_done()},
          {"tokens_total", job.progress().tokens_total()},
          {"schedule_id", job.schedule_id()},
          {"error_code", job.error_code()},
          {"error_message", job.error_message()}};
}

// Additional information about a job in its present state.
std::string remark(const v1::Calibration& job) {
  if (job.state() == v1::CALIBRATION_STATE_RUNNING) {
    return fmt::format("{} {}", name_of(job.progress().stage()),
                       percent(share_done(job.progress()), 0));
  }
  if (!job.error_message().empty()) return job.error_message();
  return job.schedule_id().empty() ? "" : "schedule " + job.schedule_id();
}

int run_jobs(const Globals& globals) {
  const auto listed = connect_and_list<v1::CalibrationService>(
      globals, &Stub::ListCalibrations,
      [](const v1::ListCalibrationsResponse& page, v1::ListCalibrationsResponse& all) {
        all.mutable_calibrations()->MergeFrom(page.calibrations());
      });
  if (!listed.ok()) return fail(listed.status());
  if (globals.json) {
    Json jobs = Json::array();
    for (const auto& job : listed->calibrations()) jobs.push_back(job_json(job));
    print_json({{"calibrations", std::move(jobs)}});
    return kSuccess;
  }
  if (listed->calibrations().empty()) {
    fmt::print("The server knows of no calibration.\n");
    return kSuccess;
  }
  using enum Table::Align;
  Table table({{"Calibration", kLeft}, {"State", kLeft}, {"Started (UTC)", kLeft}, {"", kLeft}});
  for (const auto& job : listed->calibrations()) {
    table.add(
        {job.calibration_id(), name_of(job.state()), time_text(job.started_at()), remark(job)});
  }
  fmt::print("{}", table.text());
  return kSuccess;
}

int run_watch(const Globals& globals, const std::string& id, const std::string& file) {
  auto out = ResultFile::open(file);
  if (!out.ok()) return fail(out.status());
  const auto channel = connect(globals);
  if (!channel.ok()) return fail(channel.status());
  const auto stub = v1::CalibrationService::NewStub(*channel);
  v1::WatchCalibrationRequest request;
  request.set_calibration_id(id);
  Call call(globals);
  const auto reader = stub->WatchCalibration(&call.context(), request);
  const Followed followed =
      follow<v1::WatchCalibrationResponse>(globals, call, *reader, /*detach=*/false);
  return report_calibration(globals, followed, *out);
}

int run_cancel(const Globals& globals, const std::string& id) {
  v1::CancelCalibrationRequest request;
  request.set_calibration_id(id);
  const auto ended =
      connect_and_call<v1::CalibrationService>(globals, &Stub::CancelCalibration, request);
  if (!ended.ok()) return fail(ended.status());
  if (globals.json) {
    print_json(job_json(ended->calibration()));
  } else {
    fmt::print("{}: {}\n", id, name_of(ended->calibration().state()));
  }
  return kSuccess;
}

int run_delete(const Globals& globals, const std::string& id) {
  v1::DeleteCalibrationRequest request;
  request.set_calibration_id(id);
  return delete_by(globals, &Stub::DeleteCalibration, request, "calibration_id", id);
}

}  // namespace

void add_jobs(CLI::App& app, const Globals& globals, Action& chosen) {
  const auto id = std::make_shared<std::string>();
  CLI::App* jobs = app.add_subcommand("jobs", "List calibrations, or delete one");
  CLI::App* erase = jobs->add_subcommand("delete", "Forget a calibration that has ended");
  erase->add_option("ID", *id, "Of the calibration")->required();
  jobs->callback([&, id, erase] {
    chosen = [&globals, id, deletes = erase->parsed()] {
      return deletes ? run_delete(globals, *id) : run_jobs(globals);
    };
  });

  const auto out = std::make_shared<std::string>();
  CLI::App* watch = app.add_subcommand("watch", "Follow a calibration");
  watch->add_option("ID", *id, "Of the calibration")->required();
  watch->add_option("--out", *out, "Write the schedule to this file");
  watch->callback(
      [&, id, out] { chosen = [&globals, id, out] { return run_watch(globals, *id, *out); }; });

  CLI::App* cancel = app.add_subcommand("cancel", "Stop a calibration");
  cancel->add_option("ID", *id, "Of the calibration")->required();
  cancel->callback([&, id] { chosen = [&globals, id] { return run_cancel(globals, *id); }; });
}

}  // namespace kascade::client
