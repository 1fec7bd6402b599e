#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <filesystem>
#include <memory>
#include <string>

#include "client/commands/commands.h"
#include "client/commands/deletion.h"
#include "client/commands/files.h"
#include "client/rpc/failure.h"
#include "client/views/reports.h"
#include "client/views/schedule_view.h"
#include "kascade/v1/calibration_service.grpc.pb.h"
#include "tools/terminal/print.h"

namespace kascade::client {
namespace {

using Stub = v1::CalibrationService::Stub;

int run_show(const Globals& globals, const std::string& id, const std::string& file) {
  auto out = ResultFile::open(file);
  if (!out.ok()) return fail(out.status());
  v1::GetScheduleRequest request;
  if (!id.empty()) request.set_schedule_id(id);
  const auto found = connect_and_call<v1::CalibrationService>(globals, &Stub::GetSchedule, request);
  if (!found.ok()) return fail(found.status());
  if (const auto status = out->commit(found->schedule_json()); !status.ok()) return fail(status);
  if (globals.json) {
    const auto schedule = parse_json(found->schedule_json());
    if (!schedule.ok()) return fail(schedule.status());
    print_json({{"active", found->active()}, {"schedule", *schedule}});
    return kSuccess;
  }
  fmt::print("{}\n{}This schedule is {}.\n", schedule_text(found->schedule()),
             quality_text(found->schedule().quality()), found->active() ? "active" : "not active");
  return kSuccess;
}

Json entry_json(const v1::Schedule& schedule, bool active) {
  return {{"schedule_id", schedule.schedule_id()},
          {"model", schedule.model().name()},
          {"created_at", time_text(schedule.created_at())},
          {"reuse_layers_ratio", schedule.reuse_layers_ratio()},
          {"active", active},
          {"quality", quality_json(schedule.quality())}};
}

std::string list_text(const v1::ListSchedulesResponse& listed) {
  if (listed.schedules().empty()) return "The server holds no schedule.\n";
  using enum Table::Align;
  Table table({{"Schedule", kLeft},
               {"Made (UTC)", kLeft},
               {"Reuse"},
               {"ΔPPL"},
               {"Keys attended"},
               {"", kLeft}});
  for (const auto& schedule : listed.schedules()) {
    const auto& quality = schedule.quality();
    const bool active = schedule.schedule_id() == listed.active_schedule_id();
    table.add({schedule.schedule_id(), time_text(schedule.created_at()),
               percent(schedule.reuse_layers_ratio()), degradation_text(quality),
               percent(quality.keys_attended_ratio()),
               active             ? "active"
               : quality.passed() ? ""
                                  : "not passed"});
  }
  return table.text();
}

int run_list(const Globals& globals) {
  const auto listed = connect_and_list<v1::CalibrationService>(
      globals, &Stub::ListSchedules,
      [](const v1::ListSchedulesResponse& page, v1::ListSchedulesResponse& all) {
        all.mutable_schedules()->MergeFrom(page.schedules());
      });
  if (!listed.ok()) return fail(listed.status());
  if (!globals.json) {
    fmt::print("{}", list_text(*listed));
    return kSuccess;
  }
  Json schedules = Json::array();
  for (const auto& schedule : listed->schedules()) {
    schedules.push_back(
        entry_json(schedule, schedule.schedule_id() == listed->active_schedule_id()));
  }
  print_json(
      {{"active_schedule_id", listed->active_schedule_id()}, {"schedules", std::move(schedules)}});
  return kSuccess;
}

// `source` is a file if such a file exists or if it can only be a file name; otherwise it is the id
// of a schedule.
absl::StatusOr<v1::ActivateScheduleRequest> activation(const std::string& source, bool force) {
  v1::ActivateScheduleRequest request;
  if (force) request.set_force(true);
  // An error, for example for a name that is too long, means that there is no such file.
  std::error_code unknown;
  const bool looks_like_file = source == "-" || source.ends_with(".json") ||
                               source.find('/') != std::string::npos ||
                               std::filesystem::exists(source, unknown);
  if (looks_like_file) {
    auto text = read_text(source);
    if (!text.ok()) return text.status();
    request.set_schedule_json(*std::move(text));
  } else {
    request.set_schedule_id(source);
  }
  return request;
}

int run_activate(const Globals& globals, const std::string& source, bool force) {
  const auto request = activation(source, force);
  if (!request.ok()) return fail(request.status());
  const auto active =
      connect_and_call<v1::CalibrationService>(globals, &Stub::ActivateSchedule, *request);
  if (!active.ok()) return fail(active.status());
  if (!active->warning().empty()) fmt::print(stderr, "kascade: warning: {}\n", active->warning());
  if (globals.json) {
    print_json({{"schedule_id", active->schedule().schedule_id()},
                {"saved_file", active->saved_file()},
                {"warning", active->warning()}});
  } else {
    fmt::print("{} is active\n", active->schedule().schedule_id());
  }
  return kSuccess;
}

int run_deactivate(const Globals& globals) {
  const auto before = connect_and_call<v1::CalibrationService>(globals, &Stub::DeactivateSchedule,
                                                               v1::DeactivateScheduleRequest());
  if (!before.ok()) return fail(before.status());
  if (globals.json) {
    print_json({{"schedule_id", before->schedule_id()}});
  } else if (before->schedule_id().empty()) {
    fmt::print("No schedule was active.\n");
  } else {
    fmt::print("{} is no longer active; requests run dense\n", before->schedule_id());
  }
  return kSuccess;
}

int run_delete(const Globals& globals, const std::string& id) {
  v1::DeleteScheduleRequest request;
  request.set_schedule_id(id);
  return delete_by(globals, &Stub::DeleteSchedule, request, "schedule_id", id);
}

}  // namespace

void add_schedules(CLI::App& app, const Globals& globals, Action& chosen) {
  const auto id = std::make_shared<std::string>();
  const auto out = std::make_shared<std::string>();
  CLI::App* show = app.add_subcommand("schedule", "Show a schedule");
  show->add_option("ID", *id, "Of the schedule [the active one]");
  show->add_option("--out", *out, "Also write it to this file");
  show->callback(
      [&, id, out] { chosen = [&globals, id, out] { return run_show(globals, *id, *out); }; });

  CLI::App* schedules = app.add_subcommand("schedules", "List the schedules, or delete one");
  CLI::App* erase = schedules->add_subcommand("delete", "Delete a schedule that is not active");
  erase->add_option("ID", *id, "Of the schedule")->required();
  schedules->callback([&, id, erase] {
    chosen = [&globals, id, deletes = erase->parsed()] {
      return deletes ? run_delete(globals, *id) : run_list(globals);
    };
  });

  const auto source = std::make_shared<std::string>();
  const auto force = std::make_shared<bool>(false);
  CLI::App* activate = app.add_subcommand("activate", "Make a schedule the active one");
  activate->add_option("ID|FILE", *source, "Id of a schedule that the server holds, or a file")
      ->required();
  activate->add_flag("--force", *force, "Even if it did not pass its quality check here");
  activate->callback([&, source, force] {
    chosen = [&globals, source, force] { return run_activate(globals, *source, *force); };
  });

  app.add_subcommand("deactivate", "Back to dense attention")->callback([&] {
    chosen = [&globals] { return run_deactivate(globals); };
  });
}

}  // namespace kascade::client
