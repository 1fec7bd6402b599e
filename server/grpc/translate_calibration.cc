#include "server/grpc/translate_calibration.h"

#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/core/score_totals.h"
#include "server/grpc/calibration_kind.h"
#include "server/grpc/translate_schedule.h"

namespace kascade::server {
namespace {

using Request = v1::CalibrateRequest;

// The options of a preset; null without one.
absl::StatusOr<const v1::PresetOptions*> read_preset(const Request& in) {
  if (in.preset() == v1::CALIBRATION_PRESET_UNSPECIFIED) return nullptr;
  const auto* value = v1::CalibrationPreset_descriptor()->FindValueByNumber(in.preset());
  if (value == nullptr) {
    return invalid_field("preset", absl::StrCat("unknown value ", int{in.preset()}));
  }
  return &value->options().GetExtension(v1::preset_options);
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

absl::Status read_layer_cost(const Request& in, LayerCost& out) {
  switch (in.plan_weight()) {
    case v1::PLAN_WEIGHT_IMPORTANCE:
      out = LayerCost::kImportance;
      return absl::OkStatus();
    case v1::PLAN_WEIGHT_UNSPECIFIED:
    case v1::PLAN_WEIGHT_LOSS:
      out = LayerCost::kMeasured;
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
  if (in.has_mass()) {
    // Unset means "off" on the wire, which is 0 in the engine's options.
    if (in.mass() == 0) return check_positive("mass", 0, 1);
    out.mass = in.mass();
  }
  if (in.has_max_ratio()) out.max_ratio = in.max_ratio();
  if (in.has_top_k()) out.top_k = in.top_k();
  if (in.has_sink_keys()) out.sink_keys = in.sink_keys();
  if (in.has_decode_own_tile()) out.decode_own_tile = in.decode_own_tile();
  out.all_heads = in.all_heads();
  if (in.has_int4_keys()) out.int4_keys = in.int4_keys();
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
  out.auto_threshold = in.auto_threshold();
  if (in.has_max_reuse_dist()) out.greedy.max_reuse_dist = in.max_reuse_dist();
  if (in.has_min_recall()) out.min_recall = in.min_recall();
  if (in.has_window_tokens()) out.window_tokens = in.window_tokens();
  if (in.has_join_texts()) out.join_texts = in.join_texts();
  if (in.has_max_degradation_percent()) {
    out.max_degradation_percent = in.max_degradation_percent();
  }
  if (in.has_retrieval()) out.retrieval = in.retrieval();
  if (in.has_dense_below()) out.dense_below = in.dense_below();
  return read_layer_cost(in, out.layer_cost);
}

void apply_preset(const v1::PresetOptions& preset, CalibrationOptions& out) {
  out.selection.query_tile = preset.tile_size();
  out.selection.top_k = preset.top_k();
  out.greedy = {.threshold = preset.threshold(), .max_reuse_dist = preset.max_reuse_dist()};
  out.window_tokens = preset.window_tokens();
  out.long_window = false;
}

void fill(const MeasuredLayer& in, v1::MeasuredLayer& out) {
  out.set_recall(in.recall);
  if (!in.similarity) return;
  out.mutable_similarity()->set_min(in.similarity->min);
  out.mutable_similarity()->set_median(in.similarity->median);
  out.mutable_similarity()->set_max(in.similarity->max);
}

void fill(const SimilarPair& in, v1::SimilarPair& out) {
  out.set_layer(in.layer);
  out.set_anchor(in.anchor);
  out.set_similarity(in.similarity);
  out.set_threshold(in.threshold);
}

v1::CalibrationStage to_proto(CalibrationStage stage) {
  switch (stage) {
    case CalibrationStage::kMeasuring:
      return v1::CALIBRATION_STAGE_MEASURING;
    case CalibrationStage::kMeasuringCosts:
      return v1::CALIBRATION_STAGE_WEIGHING;
    case CalibrationStage::kBuildingSchedules:
      return v1::CALIBRATION_STAGE_PLANNING;
    case CalibrationStage::kCheckingQuality:
      return v1::CALIBRATION_STAGE_GATING;
    case CalibrationStage::kMeasuringTimes:
      return v1::CALIBRATION_STAGE_TIMING;
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
  const auto preset = read_preset(in);
  if (!preset.ok()) return preset.status();
  const auto kind = read_calibration_kind(in);
  if (!kind.ok()) return kind.status();
  CalibrationOptions out;
  if (kind->planner == Planner::kMass) {
    out.selection = kUsualMassSelection;
    out.searches_mass = !in.has_mass();
    out.checks_long_windows = !in.has_window_tokens();
    out.dense_below = std::nullopt;
  }
  if (kind->family == Family::kTile) out.selection.query_tile = 16;
  if (*preset != nullptr) apply_preset(**preset, out);
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
  std::optional<int32_t> max_tokens_per_text;
  if (in.has_max_tokens_per_text()) max_tokens_per_text = in.max_tokens_per_text();
  return core::CalibrationRequest{
      .options = *std::move(options),
      .texts = {in.texts().begin(), in.texts().end()},
      .held_out_texts = {in.held_out_texts().begin(), in.held_out_texts().end()},
      .kinds = {in.kinds().begin(), in.kinds().end()},
      .held_out_kinds = {in.held_out_kinds().begin(), in.held_out_kinds().end()},
      .max_tokens_per_text = max_tokens_per_text,
      .activate = !in.has_activate() || in.activate(),
      .fresh = in.fresh()};
}

std::span<const FieldName> calibration_fields() {
  static constexpr FieldName kNames[] = {{"selection.query_tile", "tile_size"},
                                         {"selection.ratio", "ratio"},
                                         {"selection.min_keys", "min_keys"},
                                         {"selection.top_k", "top_k"},
                                         {"selection.sink_keys", "sink_keys"},
                                         {"selection.decode_own_tile", "decode_own_tile"},
                                         {"selection.mass", "mass"},
                                         {"selection.max_ratio", "max_ratio"},
                                         {"selection.int4_keys", "int4_keys"},
                                         {"greedy.threshold", "threshold"},
                                         {"greedy.max_reuse_dist", "max_reuse_dist"}};
  return kNames;
}

void to_proto(const core::CalibrationStarted& started, v1::CalibrationStarted& out) {
  out.set_calibration_id(started.id);
  out.set_attached(started.attached);
  out.set_data_digest(started.data_digest);
  out.set_tokens(started.tokens);
  if (started.held_out_tokens) out.set_held_out_tokens(*started.held_out_tokens);
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
  for (const MeasuredLayer& layer : result.layers) fill(layer, *out.add_layers());
  if (result.most_similar_pair) {
    fill(*result.most_similar_pair, *out.mutable_most_similar_pair());
  }
  if (result.auto_threshold) {
    out.mutable_auto_threshold()->set_median_similarity(result.auto_threshold->median_similarity);
    out.mutable_auto_threshold()->set_threshold(result.auto_threshold->threshold);
  }
  if (result.schedule->quality.suspect || result.schedule->quality.doubt) {
    for (const std::string_view cause : core::suspect_causes()) {
      out.add_suspect_causes(std::string(cause));
    }
  }
  out.set_warning(result.warning);
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
