#include "client/rpc/session.h"

#include <optional>
#include <utility>

namespace kascade::client {
namespace {

template <typename Request>
Request with_priority(Request request, v1::Priority priority) {
  if (request.priority() == v1::PRIORITY_UNSPECIFIED) request.set_priority(priority);
  return request;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Session>> Session::open(const Globals& globals) {
  const auto channel = connect(globals);
  if (!channel.ok()) return channel.status();
  std::unique_ptr<Session> session(new Session(globals));
  session->inference_ = v1::InferenceService::NewStub(*channel);
  session->calibration_ = v1::CalibrationService::NewStub(*channel);
  auto info = call(globals, *session->inference_, &v1::InferenceService::Stub::GetModelInfo,
                   v1::GetModelInfoRequest());
  if (!info.ok()) return info.status();
  session->info_ = *std::move(info);
  return session;
}

absl::StatusOr<std::vector<std::vector<int32_t>>> Session::encode(
    const std::vector<std::string>& texts) {
  constexpr size_t kMostTexts = 4096;
  std::vector<std::vector<int32_t>> encoded;
  for (size_t first = 0; first < texts.size(); first += kMostTexts) {
    v1::TokenizeRequest request;
    for (size_t i = first; i < std::min(first + kMostTexts, texts.size()); ++i) {
      request.add_texts(texts[i]);
    }
    request.set_add_bos(false);
    const auto response =
        call(globals_, *inference_, &v1::InferenceService::Stub::Tokenize, request);
    if (!response.ok()) return response.status();
    for (const auto& text : response->results()) {
      encoded.emplace_back(text.token_ids().begin(), text.token_ids().end());
    }
  }
  if (encoded.size() == texts.size()) return encoded;
  return absl::InternalError("the server tokenized another number of texts");
}

absl::StatusOr<v1::CalibrationResult> Session::calibrate(
    const v1::CalibrateRequest& request,
    const std::function<void(const v1::CalibrationProgress&)>& on_progress) {
  Call call(globals_);
  const auto reader = calibration_->Calibrate(&call.context(), request);
  std::optional<v1::CalibrationResult> result;
  v1::CalibrateResponse response;
  while (reader->Read(&response)) {
    if (response.has_progress() && on_progress) on_progress(response.progress());
    if (response.has_result()) result = std::move(*response.mutable_result());
  }
  const absl::Status status = call.result(reader->Finish());
  if (!status.ok()) return status;
  if (!result) return absl::InternalError("the server sent no schedule");
  return *std::move(result);
}

absl::Status Session::activate(const std::string& schedule_id) {
  v1::ActivateScheduleRequest request;
  request.set_schedule_id(schedule_id);
  request.set_force(true);
  return call(globals_, *calibration_, &v1::CalibrationService::Stub::ActivateSchedule, request)
      .status();
}

absl::StatusOr<std::string> Session::active_schedule() {
  const auto response = call(globals_, *calibration_, &v1::CalibrationService::Stub::GetSchedule,
                             v1::GetScheduleRequest());
  if (absl::IsNotFound(response.status())) return "";
  if (!response.ok()) return response.status();
  return response->schedule_json();
}

absl::Status Session::restore(const std::string& schedule_json) {
  if (schedule_json.empty()) {
    return call(globals_, *calibration_, &v1::CalibrationService::Stub::DeactivateSchedule,
                v1::DeactivateScheduleRequest())
        .status();
  }
  v1::ActivateScheduleRequest request;
  request.set_schedule_json(schedule_json);
  request.set_force(true);
  return call(globals_, *calibration_, &v1::CalibrationService::Stub::ActivateSchedule, request)
      .status();
}

absl::StatusOr<Session::Scored> Session::score(const v1::ScoreRequest& request) {
  Call call(globals_);
  const auto reader = inference_->Score(&call.context(), with_priority(request, priority_));
  std::optional<v1::ScoreSummary> total;
  std::vector<float> kl;
  v1::ScoreResponse response;
  while (reader->Read(&response)) {
    if (response.has_total()) total = std::move(*response.mutable_total());
    kl.insert(kl.end(), response.tokens().kl().begin(), response.tokens().kl().end());
  }
  const absl::Status status = call.result(reader->Finish());
  if (!status.ok()) return status;
  if (!total) return absl::InternalError("the server sent no total");
  return Scored{*std::move(total), std::move(kl)};
}

absl::StatusOr<Session::Generated> Session::generate(const v1::GenerateRequest& request) {
  Call call(globals_);
  const auto reader = inference_->Generate(&call.context(), with_priority(request, priority_));
  Generated generated;
  v1::GenerateResponse response;
  while (reader->Read(&response)) {
    if (response.has_started()) generated.started = std::move(*response.mutable_started());
    if (response.has_delta()) generated.text += response.delta().text();
    if (response.has_finished()) generated.finished = std::move(*response.mutable_finished());
  }
  const absl::Status status = call.result(reader->Finish());
  if (!status.ok()) return status;
  return generated;
}

}  // namespace kascade::client
