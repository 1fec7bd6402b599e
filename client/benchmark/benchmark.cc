#include "client/benchmark/benchmark.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <span>
#include <utility>

#include "client/rpc/calibration_stream.h"
#include "client/rpc/score_requests.h"

namespace kascade::client {
namespace {

constexpr int32_t kUsualLength = 512;
constexpr int32_t kLongestDefault = 16384;

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

}  // namespace

int32_t longest_timed_prompt(const v1::GetModelInfoResponse& info, int32_t new_tokens) {
  const int64_t room =
      std::min<int64_t>(info.model().context_length(), info.limits().cache_tokens());
  return static_cast<int32_t>(room) - new_tokens;
}

std::vector<int32_t> default_lengths(const v1::GetModelInfoResponse& info, int32_t new_tokens) {
  const int32_t longest = std::min(longest_timed_prompt(info, new_tokens), kLongestDefault);
  if (longest <= kUsualLength) return {longest};
  return {kUsualLength, longest};
}

Benchmark::Benchmark(Session& session, const BenchmarkInputs& inputs, OnProgress on_progress)
    : session_(session), inputs_(inputs), on_progress_(std::move(on_progress)) {}

absl::Status Benchmark::count_tokens() {
  const auto& texts = inputs_.calibration.texts();
  const auto calibration = session_.encode({texts.begin(), texts.end()});
  if (!calibration.ok()) return calibration.status();
  std::vector<std::string> to_score;
  for (const NamedText& text : inputs_.held_out) to_score.push_back(text.text);
  const auto held_out = session_.encode(to_score);
  if (!held_out.ok()) return held_out.status();
  const auto taken = [this](const std::vector<int32_t>& text) {
    const auto most = static_cast<size_t>(inputs_.max_tokens_per_text.value_or(INT32_MAX));
    return std::span(text).first(std::min(text.size(), most));
  };
  for (const auto& text : *calibration) results_.calibration_tokens += std::ssize(taken(text));
  for (const auto& text : *held_out) {
    const auto tokens = taken(text);
    tokens_.insert(tokens_.end(), tokens.begin(), tokens.end());
  }
  results_.held_out_tokens = static_cast<int64_t>(tokens_.size());
  if (tokens_.empty()) return absl::InvalidArgumentError("the held-out texts have no tokens");
  results_.lengths = inputs_.lengths;
  if (results_.lengths.empty()) {
    results_.lengths = default_lengths(session_.info(), inputs_.new_tokens);
  }
  const int32_t longest = longest_timed_prompt(session_.info(), inputs_.new_tokens);
  for (const int32_t length : results_.lengths) {
    if (length >= 1 && length <= longest) continue;
    return absl::InvalidArgumentError(
        fmt::format("--length {} must be 1 to {}: the context or the KV cache holds no more beside "
                    "{} new tokens (--new-tokens)",
                    length, longest, inputs_.new_tokens));
  }
  return absl::OkStatus();
}

absl::Status Benchmark::calibrate() {
  const auto begin = Clock::now();
  v1::CalibrateRequest request = inputs_.calibration;
  request.set_activate(false);
  request.set_cancel_on_disconnect(true);
  auto result = session_.calibrate(request, [this](const v1::CalibrationProgress& progress) {
    if (on_progress_) on_progress_(progress_of(progress));
  });
  if (!result.ok()) return result.status();
  results_.calibration = *std::move(result);
  results_.calibration_seconds = seconds_since(begin);
  return absl::OkStatus();
}

absl::Status Benchmark::score() {
  const auto begin = Clock::now();
  v1::ScoreRequest request;
  request.mutable_attention()->set_mode(v1::ATTENTION_MODE_COMPARE);
  request.mutable_attention()->mutable_second()->mutable_schedule()->set_schedule_id(
      results_.calibration.schedule().schedule_id());
  if (const auto& most = inputs_.max_tokens_per_text) request.set_max_tokens_per_text(*most);
  ScoreRun run;
  const absl::Status status =
      score_texts(session_.globals(), session_.inference(), request, inputs_.held_out, run);
  if (!status.ok()) return status;
  results_.score = std::move(run.total);
  results_.score_seconds = seconds_since(begin);
  return absl::OkStatus();
}

absl::Status Benchmark::time_active_schedule() {
  for (const int32_t length : results_.lengths) {
    if (auto status = time_length(length); !status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status Benchmark::time_runs() {
  const HeldInterrupts held;  // the schedule that was active is restored first
  const auto before = session_.active_schedule();
  if (!before.ok()) return before.status();
  absl::Status status = session_.activate(results_.calibration.schedule().schedule_id());
  if (status.ok()) status = time_active_schedule();
  const absl::Status restored = session_.restore(*before);
  return status.ok() ? restored : status;
}

absl::Status Benchmark::time_length(int32_t tokens) {
  const auto& info = session_.info();
  SpeedComparison prefill{.work = Work::kPrefill, .tokens = tokens};
  SpeedComparison decode{.work = Work::kDecode, .tokens = tokens};
  for (SpeedComparison* speed : {&prefill, &decode}) {
    speed->attention_share = attention_share(speed->work, tokens, info.model(), info.runtime());
  }
  const v1::GenerateRequest dense = request_of(tokens, v1::ATTENTION_MODE_DENSE);
  const v1::GenerateRequest sparse = request_of(tokens, v1::ATTENTION_MODE_SPARSE);
  // In turn, so that what slows the machine for a while slows both. The first round warms up.
  for (int32_t run = 0; run <= inputs_.runs; ++run) {
    const bool counts = run > 0;
    for (const bool is_sparse : {false, true}) {
      RunTimes& prefill_times = is_sparse ? prefill.sparse : prefill.dense;
      RunTimes& decode_times = is_sparse ? decode.sparse : decode.dense;
      const absl::Status status =
          run_once(is_sparse ? sparse : dense, counts ? &prefill_times : nullptr,
                   counts ? &decode_times : nullptr);
      if (!status.ok()) return status;
    }
    if (on_progress_) {
      on_progress_({.stage = fmt::format("timing {} tokens", tokens),
                    .done = run + 1,
                    .total = inputs_.runs + 1});
    }
  }
  results_.speed.push_back(std::move(prefill));
  results_.speed.push_back(std::move(decode));
  return absl::OkStatus();
}

absl::Status Benchmark::run_once(const v1::GenerateRequest& request, RunTimes* prefill,
                                 RunTimes* decode) {
  const auto generated = session_.generate(request);
  if (!generated.ok()) return generated.status();
  const auto& finished = generated->finished;
  if (finished.generated_tokens() != inputs_.new_tokens) {
    return absl::InternalError(fmt::format("the server generated {} tokens of {}",
                                           finished.generated_tokens(), inputs_.new_tokens));
  }
  const auto& timings = finished.timings();
  if (prefill != nullptr) prefill->milliseconds.push_back(1e3 * timings.prefill_seconds());
  if (decode != nullptr) {
    decode->milliseconds.push_back(1e3 * timings.decode_seconds() / (inputs_.new_tokens - 1));
  }
  return absl::OkStatus();
}

v1::GenerateRequest Benchmark::request_of(int32_t tokens, v1::AttentionMode mode) const {
  v1::GenerateRequest request;
  auto& ids = *request.mutable_token_ids()->mutable_ids();
  const auto& model = session_.info().model();
  if (model.adds_bos() && model.has_bos_token_id()) ids.Add(model.bos_token_id());
  // A text that is shorter than the prompt is repeated.
  for (size_t i = 0; ids.size() < tokens; ++i) ids.Add(tokens_[i % tokens_.size()]);
  request.mutable_sampling()->set_temperature(0);
  request.mutable_stopping()->set_max_new_tokens(inputs_.new_tokens);
  request.mutable_stopping()->set_ignore_eos(true);
  request.mutable_attention()->set_mode(mode);
  return request;
}

}  // namespace kascade::client
