#include "server/grpc/translate_calibration.h"

#include <optional>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/grpc/translate_schedule.h"

namespace kascade::server {
namespace {

using Request = v1::CalibrateRequest;

// The kind of schedule that is asked for.
struct Kind {
  Family family = Family::kKascade;
  Planner planner = Planner::kDynamicProgramming;
};

absl::StatusOr<std::optional<Preset>> read_preset(const Request& in) {
  switch (in.preset()) {
    case v1::CALIBRATION_PRESET_UNSPECIFIED:
      return std::nullopt;
    case v1::CALIBRATION_PRESET_BALANCED:
      return preset("balanced");
    case v1::CALIBRATION_PRESET_CONSERVATIVE:
      return preset("conservative");
    case v1::CALIBRATION_PRESET_AGGRESSIVE:
      return preset("aggressive");
    case v1::CALIBRATION_PRESET_LARGE_MODEL:
      return preset("large-model");
    case v1::CALIBRATION_PRESET_CPU_8B:
      return preset("cpu-8b");
    case v1::CALIBRATION_PRESET_LONG:
      return preset("long");
    default:
      return invalid_field("preset", absl::StrCat("unknown value ", int{in.preset()}));
  }
}

absl::StatusOr<Kind> read_kind(const Request& in, bool has_preset) {
  Kind kind;
  switch (in.family()) {
    case v1::SELECTION_FAMILY_UNSPECIFIED:
      kind.family = has_preset ? Family::kTile : Family::kKascade;
      break;
    case v1::SELECTION_FAMILY_KASCADE:
      kind.family = Family::kKascade;
      break;
    case v1::SELECTION_FAMILY_TILE:
      kind.family = Family::kTile;
      break;
    default:
      return invalid_field("family", absl::StrCat("unknown value ", int{in.family()}));
  }
  switch (in.maker()) {
    case v1::SCHEDULE_MAKER_UNSPECIFIED:
      kind.planner = kind.family == Family::kTile ? Planner::kGreedy : Planner::kDynamicProgramming;
      break;
    case v1::SCHEDULE_MAKER_DP:
      kind.planner = Planner::kDynamicProgramming;
      break;
    case v1::SCHEDULE_MAKER_GREEDY:
      kind.planner = Planner::kGreedy;
      break;
    default:
      return invalid_field("maker", absl::StrCat("unknown value ", int{in.maker()}));
  }
  if (has_preset && kind.family != Family::kTile) {
    return invalid_field("preset", "presets are of family TILE; family is KASCADE");
  }
  if (has_preset && kind.planner != Planner::kGreedy) {
    return invalid_field("preset", "presets are of maker GREEDY; maker is DP");
  }
  return kind;
}

// Refuses what was set for another kind of schedule.
absl::Status check_fit(const Request& in, const Kind& kind) {
  struct Option {
    const char* name;
    bool set;
    bool fits;
    const char* belongs;
  };
  const bool keys = kind.family == Family::kKascade;
  const bool optimal = kind.planner == Planner::kDynamicProgramming;
  const Option options[] = {
      {"anchors", in.has_anchors(), optimal, "maker DP; maker is GREEDY"},
      {"threshold", in.has_threshold(), !optimal, "maker GREEDY; maker is DP"},
      {"max_reuse_dist", in.has_max_reuse_dist(), !optimal, "maker GREEDY; maker is DP"},
      {"ratio", in.has_ratio(), keys, "family KASCADE; family is TILE"},
      {"min_keys", in.has_min_keys(), keys, "family KASCADE; family is TILE"},
      {"decode_own_tile", in.has_decode_own_tile(), keys, "family KASCADE; family is TILE"},
      {"sink_keys", in.has_sink_keys(), keys, "family KASCADE; family is TILE"},
      {"pooling", in.has_pooling(), keys, "family KASCADE; family is TILE"},
      {"all_heads", in.has_all_heads(), keys, "family KASCADE; family is TILE"},
      {"published_head_map_slip", in.has_published_head_map_slip(), optimal,
       "maker DP; maker is GREEDY"},
      {"plan_weight", in.has_plan_weight(), optimal, "maker DP; maker is GREEDY"},
      {"top_k", in.has_top_k(), !keys, "family TILE; family is KASCADE"},
      {"min_recall", in.has_min_recall(), in.auto_dense_layers(),
       "auto_dense_layers; auto_dense_layers is false"},
  };
  for (const Option& option : options) {
    if (option.set && !option.fits) {
      return invalid_field(option.name, absl::StrCat("is an option of ", option.belongs));
    }
  }
  return absl::OkStatus();
}

absl::Status read_pooling(const Request& in, ScorePooling& out) {
  switch (in.pooling()) {
    case v1::SCORE_POOLING_UNSPECIFIED:
    case v1::SCORE_POOLING_SUM:
      out = ScorePooling::kSum;
      return absl::OkStatus();
    case v1::SCORE_POOLING_MAX:
      out = ScorePooling::kMax;
      return absl::OkStatus();
    default:
      return invalid_field("pooling", absl::StrCat("unknown value ", int{in.pooling()}));
  }
}

absl::Status read_weight(const Request& in, LayerCost& out) {
  switch (in.plan_weight()) {
    case v1::PLAN_WEIGHT_IMPORTANCE:
      out = LayerCost::kImportance;
      return absl::OkStatus();
    case v1::PLAN_WEIGHT_UNSPECIFIED:
    case v1::PLAN_WEIGHT_LOSS:
      out = LayerCost::kLoss;
      return absl::OkStatus();
    default:
      return invalid_field("plan_weight", absl::StrCat("unknown value ", int{in.plan_weight()}));
  }
}

absl::Status read_selection(const Request& in, Family family, SelectionSettings& out) {
  out.family = family;
  if (in.has_tile_size()) out.query_tile = in.tile_size();
  if (in.has_ratio()) out.ratio = in.ratio();
  if (in.has_min_keys()) out.min_keys = in.min_keys();
  if (in.has_top_k()) out.top_k = in.top_k();
  if (in.has_sink_keys()) out.sink_keys = in.sink_keys();
  if (in.has_decode_own_tile()) out.decode_own_tile = in.decode_own_tile();
  out.all_heads = in.all_heads();
  return read_pooling(in, out.pooling);
}

absl::Status read_planner(const Request& in, const ModelConfig& model, CalibrationOptions& out) {
  out.dense_layers.assign(in.dense_layers().begin(), in.dense_layers().end());
  out.auto_dense_layers = in.auto_dense_layers();
  out.published_head_map_slip = in.published_head_map_slip();
  if (in.has_anchors()) {
    // Unset means "auto" on the wire, which is 0 in the engine's options.
    if (in.anchors() == 0) return check_range("anchors", 0, 1, model.layers);
    out.anchors = in.anchors();
  }
  if (in.has_threshold()) out.greedy.threshold = in.threshold();
  if (in.has_max_reuse_dist()) out.greedy.max_reuse_dist = in.max_reuse_dist();
  if (in.has_min_recall()) out.min_recall = in.min_recall();
  if (in.has_window_tokens()) out.window_tokens = in.window_tokens();
  if (in.has_max_degradation_percent()) {
    out.max_degradation_percent = in.max_degradation_percent();
  }
  return read_weight(in, out.weight);
}

v1::CalibrationStage to_proto(CalibrationStage stage) {
  switch (stage) {
    case CalibrationStage::kMeasuring:
      return v1::CALIBRATION_STAGE_MEASURING;
    case CalibrationStage::kMeasuringCosts:
      return v1::CALIBRATION_STAGE_WEIGHING;
    case CalibrationStage::kPlanning:
      return v1::CALIBRATION_STAGE_PLANNING;
    case CalibrationStage::kCheckingQuality:
      return v1::CALIBRATION_STAGE_GATING;
    case CalibrationStage::kDone:
      return v1::CALIBRATION_STAGE_DONE;
  }
  return v1::CALIBRATION_STAGE_UNSPECIFIED;
}

v1::CalibrationState to_proto(core::CalibrationState state) {
  switch (state) {
    case core::CalibrationState::kRunning:
      return v1::CALIBRATION_STATE_RUNNING;
    case core::CalibrationState::kSucceeded:
      return v1::CALIBRATION_STATE_SUCCEEDED;
    case core::CalibrationState::kFailed:
      return v1::CALIBRATION_STATE_FAILED;
    case core::CalibrationState::kCancelled:
      return v1::CALIBRATION_STATE_CANCELLED;
  }
  return v1::CALIBRATION_STATE_UNSPECIFIED;
}

void set_time(absl::Time time, google::protobuf::Timestamp& out) {
  const absl::Duration since_epoch = time - absl::UnixEpoch();
  out.set_seconds(absl::ToInt64Seconds(since_epoch));
  out.set_nanos(
      static_cast<int32_t>(absl::ToInt64Nanoseconds(since_epoch - absl::Seconds(out.seconds()))));
}

}  // namespace

absl::StatusOr<CalibrationOptions> read_calibration_options(const Request& in,
                                                            const ModelConfig& model) {
  const auto named = read_preset(in);
  if (!named.ok()) return named.status();
  const std::optional<Preset>& preset = *named;
  const auto kind = read_kind(in, preset.has_value());
  if (!kind.ok()) return kind.status();
  if (absl::Status status = check_fit(in, *kind); !status.ok()) return status;
  CalibrationOptions out;
  if (kind->family == Family::kTile) out.selection.query_tile = 16;
  if (preset) {
    out.selection = preset->rule();
    out.greedy = preset->greedy();
    out.window_tokens = preset->window_tokens;
  }
  out.planner = kind->planner;
  absl::Status status = read_selection(in, kind->family, out.selection);
  if (status.ok()) status = read_planner(in, model, out);
  if (!status.ok()) return status;
  return out;
}

absl::StatusOr<core::CalibrationRequest> read_calibration(const Request& in,
                                                          const ModelConfig& model) {
  auto options = read_calibration_options(in, model);
  if (!options.ok()) return options.status();
  return core::CalibrationRequest{.options = *std::move(options),
                                  .texts = {in.texts().begin(), in.texts().end()},
                                  .activate = !in.has_activate() || in.activate()};
}

std::span<const FieldName> calibration_fields() {
  static constexpr FieldName kNames[] = {
      {"selection.query_tile", "tile_size"}, {"selection.ratio", "ratio"},
      {"selection.min_keys", "min_keys"},    {"selection.top_k", "top_k"},
      {"selection.sink_keys", "sink_keys"},  {"selection.decode_own_tile", "decode_own_tile"},
      {"greedy.threshold", "threshold"},     {"greedy.max_reuse_dist", "max_reuse_dist"}};
  return kNames;
}

void to_proto(const core::CalibrationStarted& started, v1::CalibrationStarted& out) {
  out.set_calibration_id(started.id);
  out.set_attached(started.attached);
  out.set_data_digest(started.data_digest);
  out.set_tokens(started.tokens);
}

void to_proto(const core::CalibrationReport& report, v1::CalibrationProgress& out) {
  out.set_stage(to_proto(report.progress.stage));
  out.set_tokens_done(report.progress.done_tokens);
  out.set_tokens_total(report.progress.total_tokens);
  out.set_candidate_anchors(report.progress.candidate_anchors);
  out.set_elapsed_seconds(absl::ToDoubleSeconds(report.elapsed));
  if (report.tokens_per_second) out.set_tokens_per_second(*report.tokens_per_second);
  if (report.remaining) out.set_eta_seconds(absl::ToDoubleSeconds(*report.remaining));
}

void to_proto(const core::CalibrationResult& result, v1::CalibrationResult& out) {
  *out.mutable_schedule() = to_proto(*result.schedule);
  out.set_schedule_json(to_json(*result.schedule));
  for (const QualityCheckResult& candidate : result.candidates) {
    *out.add_candidates() = to_proto(candidate);
  }
  for (const std::vector<double>& row : result.similarity) {
    out.add_similarity()->mutable_to_layers()->Add(row.begin(), row.end());
  }
  out.set_passed(result.passed());
  out.set_activated(result.activated);
  out.set_saved_file(result.saved_file);
  out.set_note(result.note);
}

void to_proto(const core::CalibrationSnapshot& snapshot, v1::Calibration& out) {
  out.set_calibration_id(snapshot.id);
  out.set_state(to_proto(snapshot.state));
  set_time(snapshot.began, *out.mutable_started_at());
  to_proto(snapshot.report, *out.mutable_progress());
  if (snapshot.state == core::CalibrationState::kRunning) return;
  set_time(snapshot.ended, *out.mutable_ended_at());
  if (snapshot.status.ok()) {
    out.set_schedule_id(snapshot.schedule_id);
    if (snapshot.result) to_proto(*snapshot.result, *out.mutable_result());
    return;
  }
  out.set_error_message(std::string(snapshot.status.message()));
  if (snapshot.state == core::CalibrationState::kFailed) {
    out.set_error_code(static_cast<int>(snapshot.status.code()));
  }
}

}  // namespace kascade::server
