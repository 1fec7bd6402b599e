// Wire messages ↔ the engine's types, with every limit checked: nothing behind this re-validates.
// Errors are INVALID_ARGUMENT naming field, limit and value.
#ifndef KASCADE_SERVER_TRANSLATE_H_
#define KASCADE_SERVER_TRANSLATE_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/engine.h"
#include "kascade/v1/attention.pb.h"
#include "kascade/v1/generate.pb.h"
#include "kascade/v1/inference_service.pb.h"
#include "server/host.h"

namespace kascade::server {

// OK if low ≤ value ≤ high; a NaN is not.
absl::Status check_range(const std::string& field, double value, double low, double high);
absl::Status check_positive(const std::string& field, double value, double high);  // (0, high]
absl::Status check_range(const std::string& field, int64_t value, int64_t low, int64_t high);

enum class Mode { kDense, kSparse, kCompare };

// The attention that a request asks for on the wire, with the mode resolved.
struct AskedAttention {
  Mode mode = Mode::kDense;
  std::optional<double> ratio{};
  std::optional<BaselineAttention> baseline{};  // sparse is this, not the schedule

  bool uses_schedule() const { return mode != Mode::kDense && !baseline; }
  // The sparse choice of modes kSparse and kCompare.
  AttentionChoice sparse(std::shared_ptr<const Schedule> schedule) const {
    if (baseline) return *baseline;
    return ScheduledAttention{.schedule = std::move(schedule), .ratio = ratio};
  }
};

// What a Generate asks for.
struct GeneratePlan {
  Request request{};
  AskedAttention attention{};
  std::shared_ptr<const Schedule> schedule{};  // null when dense
  std::vector<std::string> stop_strings{};
  bool include_stop_string = false;
  bool skip_special_tokens = true;
  bool send_token_ids = false;
  bool send_logprobs = false;
  bool send_prompt_ids = false;
  bool continues_text = false;      // the prompt ends with text, which the new text goes on
  std::vector<Token> end_tokens{};  // of the model and of the chat, unless they are ignored

  const Generate& generate() const { return std::get<Generate>(request.task); }
  Mode mode() const { return attention.mode; }
};

absl::StatusOr<GeneratePlan> plan_generate(const v1::GenerateRequest& in, const Engine& engine,
                                           absl::Time deadline);

// Resolves the mode against `active`. FAILED_PRECONDITION: sparse without a schedule or a baseline.
absl::StatusOr<AskedAttention> translate_attention(const v1::AttentionOptions& in,
                                                   const ModelConfig& model, const Schedule* active,
                                                   bool may_compare);

v1::AttentionMode to_proto(Mode mode);
// `schedule` is the one that was used; `used.mode` must be set.
v1::AttentionReport report_attention(const AttentionCounts& counts, const AskedAttention& used,
                                     const Schedule* schedule);
void to_proto(const std::vector<Candidate>& candidates, v1::TopCandidates& out);

v1::GetModelInfoResponse describe_model(const ServerContext& host);

}  // namespace kascade::server

#endif  // KASCADE_SERVER_TRANSLATE_H_
