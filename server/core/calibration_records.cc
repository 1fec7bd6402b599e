#include "server/core/calibration_records.h"

#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "engine/base/refusal.h"
#include "server/core/calibration_fields.h"
#include "tools/version/version.h"

namespace kascade::core {
namespace {

template <typename Visitor, Is<CalibrationHead> Record>
void visit_fields(Visitor& visit, Record& head) {
  visit("format", head.format);
  visit("name", head.model.name);
  visit("weights_digest", head.model.weights_digest);
  visit("config_digest", head.model.config_digest);
  visit("tokenizer_digest", head.model.tokenizer_digest);
  visit("environment", head.environment);
  visit("id", head.started.id);
  visit("data_digest", head.started.data_digest);
  visit("tokens", head.started.tokens);
  visit("held_out_tokens", head.started.held_out_tokens);
  visit("began", head.began_ns);
  visit("active_before", head.active_before);
}

template <typename Visitor, Is<PreparedCalibration> Record>
void visit_fields(Visitor& visit, Record& prepared) {
  visit("options", prepared.options);
  visit("texts", prepared.texts);
  visit("activate", prepared.activate);
}

// A CalibrationEnd in values that can be written.
struct EndFields {
  CalibrationState state = CalibrationState::kFailed;
  int64_t ended_ns = 0;
  int32_t code = 0;
  std::string message{};
  std::vector<std::string> payloads{};  // of the status: type and contents by turns
  CalibrationProgress progress{};
  std::string schedule{};  // JSON; empty: there is no result
  CalibrationResult result{};
};

template <typename Visitor, Is<EndFields> Record>
void visit_fields(Visitor& visit, Record& end) {
  visit("state", end.state);
  visit("ended", end.ended_ns);
  visit("code", end.code);
  visit("message", end.message);
  visit("payloads", end.payloads);
  visit("progress", end.progress);
  visit("schedule", end.schedule);
  visit("candidates", end.result.candidates);
  visit("similarity", end.result.similarity);
  visit("layers", end.result.layers);
  visit("most_similar_pair", end.result.most_similar_pair);
  visit("auto_threshold", end.result.auto_threshold);
  visit("note", end.result.note);
  visit("warning", end.result.warning);
  visit("activated", end.result.activated);
  visit("saved_file", end.result.saved_file);
}

bool makes_sense(const EndFields& end) {
  const bool succeeded = end.state == CalibrationState::kSucceeded;
  return end.state > CalibrationState::kRunning && end.state <= CalibrationState::kCancelled &&
         end.progress.stage >= CalibrationStage::kMeasuring &&
         end.progress.stage <= CalibrationStage::kDone && succeeded == !end.schedule.empty() &&
         succeeded == (end.code == 0);
}

absl::Status status_of(const EndFields& end) {
  absl::Status status(static_cast<absl::StatusCode>(end.code), end.message);
  for (size_t i = 0; i + 1 < end.payloads.size(); i += 2) {
    status.SetPayload(end.payloads[i], absl::Cord(end.payloads[i + 1]));
  }
  return status;
}

absl::Status damaged() {
  return absl::DataLossError("it is damaged, or was written by another version of the server");
}

// The bytes as one of these records; the record's own bytes need visit_fields() of this file.
template <typename Record>
bool read(const std::string& bytes, Record& record) {
  ByteReader reader(bytes);
  visit_fields(reader, record);
  return reader.complete();
}
template <typename Record>
std::string write(const Record& record) {
  ByteWriter writer;
  visit_fields(writer, record);
  return writer.bytes();
}

}  // namespace

std::string run_environment(const Engine& engine) {
  const EngineInfo& info = engine.info();
  return absl::StrCat(version_line(), ", ", info.backend, ", ", info.device, ", ",
                      info.instruction_set, ", weights ", static_cast<int>(info.weights),
                      ", cache ", static_cast<int>(info.cache), ", threads ", info.threads);
}

std::string to_record(const CalibrationHead& head) { return write(head); }

std::string to_record(const PreparedCalibration& prepared) { return write(prepared); }

std::string to_record(const CalibrationEnd& end) {
  EndFields out{.state = end.state,
                .ended_ns = absl::ToUnixNanos(end.ended),
                .code = static_cast<int32_t>(end.status.code()),
                .message = message_of(end.status),
                .progress = end.progress};
  end.status.ForEachPayload([&](auto type, const absl::Cord& contents) {
    out.payloads.emplace_back(std::string(type));
    out.payloads.emplace_back(std::string(contents));
  });
  if (end.result) {
    out.schedule = to_json(*end.result->schedule);
    out.result = *end.result;
  }
  return write(out);
}

absl::StatusOr<CalibrationHead> read_head(const std::string& bytes) {
  CalibrationHead head;
  if (!read(bytes, head) || head.format != kCalibrationFormat) return damaged();
  return head;
}

absl::StatusOr<PreparedCalibration> read_request(const std::string& bytes, const std::string& id,
                                                 const ModelIdentity& model) {
  PreparedCalibration prepared;
  if (!read(bytes, prepared)) return damaged();
  identify(model, prepared);
  if (prepared.id != id) return damaged();
  return prepared;
}

absl::StatusOr<CalibrationEnd> read_end(const std::string& bytes) {
  EndFields in;
  if (!read(bytes, in) || !makes_sense(in)) return damaged();
  CalibrationEnd out{.state = in.state,
                     .ended = absl::FromUnixNanos(in.ended_ns),
                     .status = status_of(in),
                     .progress = in.progress};
  if (in.schedule.empty()) return out;
  auto schedule = parse_schedule(in.schedule);
  if (!schedule.ok()) return damaged();
  in.result.schedule = std::make_shared<const Schedule>(*std::move(schedule));
  out.result = std::move(in.result);
  return out;
}

}  // namespace kascade::core
