#include "server/grpc/translate_calibration.h"

#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/core/score_totals.h"
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

// An option that belongs to one family or one planner only.
struct OwnOption {
  const char* name;
  bool set;
};

// The first of the options that is set; null if none is.
const char* first_set(std::initializer_list<OwnOption> options) {
  for (const OwnOption& option : options) {
    if (option.set) return option.name;
  }
  return nullptr;
}

// The first option in the request that belongs to each family and planner; null if there is none.
struct OwnOptions {
  const char* keys;     // family KASCADE
  const char* tiles;    // family TILE
  const char* optimal;  // maker DP
  const char* greedy;   // maker GREEDY
};

OwnOptions own_options(const Request& in) {
  return {.keys = first_set({{"ratio", in.has_ratio()},
                             {"min_keys", in.has_min_keys()},
                             {"mass", in.has_mass()},
                             {"max_ratio", in.has_max_ratio()},
                             {"decode_own_tile", in.has_decode_own_tile()},
                             {"sink_keys", in.has_sink_keys()},
                             {"pooling", in.has_pooling()},
                             {"all_heads", in.has_all_heads()}}),
          .tiles = first_set({{"preset", in.preset() != v1::CALIBRATION_PRESET_UNSPECIFIED},
                              {"top_k", in.has_top_k()}}),
          .optimal = first_set({{"anchors", in.has_anchors()},
                                {"plan_weight", in.has_plan_weight()},
                                {"published_head_map_slip", in.has_published_head_map_slip()}}),
          .greedy = first_set({{"preset", in.preset() != v1::CALIBRATION_PRESET_UNSPECIFIED},
                               {"threshold", in.has_threshold()},
                               {"auto_threshold", in.auto_threshold()},
                               {"max_reuse_dist", in.has_max_reuse_dist()}})};
}

// The kind of schedule that is asked for, and the option that decided it; null where the request
// names it or nothing decided it.
struct Kind {
  Family family = Family::kKascade;
  Planner planner = Planner::kDynamicProgramming;
  const char* family_by = nullptr;
  const char* planner_by = nullptr;
};

absl::Status read_family(const Request& in, const OwnOptions& own, Kind& kind) {
  switch (in.family()) {
    case v1::SELECTION_FAMILY_UNSPECIFIED: {
      const bool tiles = own.tiles != nullptr || (own.keys == nullptr && own.greedy != nullptr);
      kind.family = tiles ? Family::kTile : Family::kKascade;
      kind.family_by = own.tiles != nullptr ? own.tiles : tiles ? own.greedy : own.keys;
      return absl::OkStatus();
    }
    case v1::SELECTION_FAMILY_KASCADE:
      kind.family = Family::kKascade;
      return absl::OkStatus();
    case v1::SELECTION_FAMILY_TILE:
      kind.family = Family::kTile;
      return absl::OkStatus();
    default:
      return invalid_field("family", absl::StrCat("unknown value ", int{in.family()}));
  }
}

absl::Status read_maker(const Request& in, const OwnOptions& own, Kind& kind) {
  switch (in.maker()) {
    case v1::SCHEDULE_MAKER_UNSPECIFIED: {
      const bool undecided = own.greedy == nullptr && own.optimal == nullptr;
      const bool greedy = undecided ? kind.family == Family::kTile : own.greedy != nullptr;
      kind.planner = greedy ? Planner::kGreedy : Planner::kDynamicProgramming;
      kind.planner_by = greedy ? own.greedy : own.optimal;
      return absl::OkStatus();
    }
    case v1::SCHEDULE_MAKER_DP:
      kind.planner = Planner::kDynamicProgramming;
      return absl::OkStatus();
    case v1::SCHEDULE_MAKER_GREEDY:
      kind.planner = Planner::kGreedy;
      return absl::OkStatus();
    default:
      return invalid_field("maker", absl::StrCat("unknown value ", int{in.maker()}));
  }
}

// Refuses an option, if there is one, of another family or planner than the request's.
absl::Status refuse_other(const char* option, const char* owner, const char* chosen,
                          const char* chosen_by) {
  if (option == nullptr) return absl::OkStatus();
  return invalid_field(
      option,
      absl::StrCat("is an option of ", owner, "; ", chosen,
                   chosen_by != nullptr ? absl::StrCat(", as ", chosen_by, " asks for it") : ""));
}

absl::StatusOr<Kind> read_kind(const Request& in) {
  const OwnOptions own = own_options(in);
  Kind kind;
  absl::Status status = read_family(in, own, kind);
  if (status.ok()) status = read_maker(in, own, kind);
  if (!status.ok()) return status;
  const bool tiles = kind.family == Family::kTile;
  const bool greedy = kind.planner == Planner::kGreedy;
  status = tiles ? refuse_other(own.keys, "family KASCADE", "family is TILE", kind.family_by)
                 : refuse_other(own.tiles, "family TILE", "family is KASCADE", kind.family_by);
  if (!status.ok()) return status;
  status = greedy ? refuse_other(own.optimal, "maker DP", "maker is GREEDY", kind.planner_by)
                  : refuse_other(own.greedy, "maker GREEDY", "maker is DP", kind.planner_by);
  if (!status.ok()) return status;
  if (in.has_min_recall() && !in.auto_dense_layers()) {
    return invalid_field("min_recall",
                         "is an option of auto_dense_layers; auto_dense_layers is false");
  }
  if (in.has_mass() && in.has_ratio()) {
    return invalid_field("mass", "does not go together with ratio; max_ratio limits the keys");
  }
  if (in.has_max_ratio() && !in.has_mass()) {
    return invalid_field("max_ratio", "is an option of mass; mass is not given");
  }
  if (in.has_threshold() && in.auto_threshold()) {
    return invalid_field("auto_threshold", "does not go together with threshold");
  }
  return kind;
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
  const auto kind = read_kind(in);
  if (!kind.ok()) return kind.status();
  CalibrationOptions out;
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
      .activate = !in.has_activate() || in.activate()};
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
