#include "client/benchmark/all_keys_check.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>
#include <vector>

namespace kascade::client {
namespace {

// A schedule is made from the whole text; comparing two runs takes longer.
constexpr size_t kComparedTokens = 2048;

absl::StatusOr<std::string> make_schedule(Session& session, const std::string& text) {
  v1::CalibrateRequest request;
  request.add_texts(text);
  request.set_anchors(1);
  request.set_min_keys(16);
  request.set_window_tokens(512);
  request.set_activate(false);
  request.set_cancel_on_disconnect(true);
  auto made = session.calibrate(request);
  if (!made.ok()) return made.status();
  return made->schedule().schedule_id();
}

absl::Status compare(Session& session, const std::vector<int32_t>& tokens,
                     const std::string& schedule, AllKeysCheck& out) {
  v1::ScoreRequest request;
  auto& ids = *request.add_inputs()->mutable_token_ids()->mutable_ids();
  const size_t compared = std::min(tokens.size(), kComparedTokens);
  ids.Add(tokens.begin(), tokens.begin() + static_cast<ptrdiff_t>(compared));
  request.mutable_attention()->set_mode(v1::ATTENTION_MODE_COMPARE);
  auto& second = *request.mutable_attention()->mutable_second()->mutable_schedule();
  second.set_schedule_id(schedule);
  second.set_ratio(1);
  request.set_tile_comparison(true);
  const auto scored = session.score(request);
  if (!scored.ok()) return scored.status();
  const v1::ScoreSummary& total = scored->total;
  out.tokens = total.tokens_scored();
  out.reuse_layers_ratio = total.attention().reuse_layers_ratio();
  out.largest_difference = std::max(total.comparison().max_logprob_difference(),
                                    total.tile_comparison().max_logprob_difference());
  out.keys_attended_ratio = std::min(total.attention().keys_attended_ratio(),
                                     total.tile_attention().keys_attended_ratio());
  return absl::OkStatus();
}

absl::Status time_forward(Session& session, const std::vector<int32_t>& tokens, int32_t runs,
                          AllKeysCheck& out) {
  v1::GenerateRequest request;
  auto& ids = *request.mutable_token_ids()->mutable_ids();
  for (size_t i = 0; ids.size() < out.forward_tokens; ++i) ids.Add(tokens[i % tokens.size()]);
  request.mutable_sampling()->set_temperature(0);
  request.mutable_stopping()->set_max_new_tokens(1);
  for (int32_t run = 0; run <= runs; ++run) {
    for (const bool sparse : {false, true}) {
      v1::AttentionOptions& attention = *request.mutable_attention();
      attention.set_mode(sparse ? v1::ATTENTION_MODE_SPARSE : v1::ATTENTION_MODE_DENSE);
      attention.clear_ratio();
      if (sparse) attention.set_ratio(1);
      const auto generated = session.generate(request);
      if (!generated.ok()) return generated.status();
      if (run == 0) continue;  // warms up
      (sparse ? out.sparse : out.dense)
          .milliseconds.push_back(1e3 * generated->finished.timings().prefill_seconds());
    }
  }
  return absl::OkStatus();
}

}  // namespace

double all_keys_tolerance(const std::string& weights_dtype) {
  // 2^-24 and 2^-9 are the rounding of f32 and of bf16, which the integer formats' activations pass
  // through too; thousands of sums lie between the keys and a log-probability.
  return weights_dtype == "f32" ? 0x1p-24 * 2048 : 0x1p-9 * 64;
}

absl::StatusOr<AllKeysCheck> check_all_keys(Session& session, const std::string& text,
                                            int32_t forward_tokens, int32_t runs) {
  const auto& info = session.info();
  AllKeysCheck out{
      .tolerance = all_keys_tolerance(info.runtime().weights_dtype()),
      .forward_tokens = forward_tokens,
      .weight_bytes = static_cast<int64_t>(bytes_per_weight(info.runtime(), info.model()) *
                                           static_cast<double>(info.model().parameters())),
      .kv_bytes_per_token = info.runtime().kv_bytes_per_token()};
  const auto tokens = session.encode({text});
  if (!tokens.ok()) return tokens.status();
  if (tokens->front().empty()) return absl::InvalidArgumentError("the text has no tokens");
  const auto schedule = make_schedule(session, text);
  if (!schedule.ok()) return schedule.status();
  if (auto status = compare(session, tokens->front(), *schedule, out); !status.ok()) return status;
  const HeldInterrupts held;
  const auto before = session.active_schedule();
  if (!before.ok()) return before.status();
  absl::Status status = session.activate(*schedule);
  if (status.ok()) status = time_forward(session, tokens->front(), runs, out);
  const absl::Status restored = session.restore(*before);
  status.Update(restored);
  if (!status.ok()) return status;
  return out;
}

}  // namespace kascade::client
