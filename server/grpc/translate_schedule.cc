#include "server/grpc/translate_schedule.h"

#include <string>

#include "absl/time/time.h"

namespace kascade::server {
namespace {

v1::LayerRole to_proto(Role role) {
  switch (role) {
    case Role::kDense:
      return v1::LAYER_ROLE_DENSE;
    case Role::kAnchor:
      return v1::LAYER_ROLE_ANCHOR;
    case Role::kReuse:
      return v1::LAYER_ROLE_REUSE;
  }
  return v1::LAYER_ROLE_UNSPECIFIED;
}

void fill(const ModelIdentity& in, v1::ScheduledModel& out) {
  out.set_name(in.name);
  out.set_weights_digest(in.weights_digest);
  out.set_config_digest(in.config_digest);
  out.set_tokenizer_digest(in.tokenizer_digest);
}

void fill(const RequestedSchedule& in, v1::RequestedPlan& out) {
  if (in.anchors > 0) out.set_anchors(in.anchors);
  out.mutable_dense_layers()->Add(in.dense_layers.begin(), in.dense_layers.end());
  out.set_auto_dense_layers(in.auto_dense_layers);
  if (in.auto_dense_layers) out.set_min_recall(in.min_recall);
}

void fill(const CalibrationRecord& in, v1::CalibrationSummary& out) {
  out.set_maker(in.planner);
  out.set_data_digest(in.data_digest);
  out.set_held_out_digest(in.held_out_digest);
  out.set_windows(in.windows);
  out.set_window_tokens(in.window_tokens);
  out.set_tokens(in.tokens);
  out.set_duration_seconds(in.duration_seconds);
  if (in.planner == "greedy") {
    out.set_threshold(in.threshold);
    out.set_max_reuse_dist(in.max_reuse_dist);
    out.set_auto_threshold(in.auto_threshold);
  }
  out.set_published_head_map_slip(in.published_head_map_slip);
  out.set_weighted_by_loss(in.uses_measured_costs);
  if (in.requested) fill(*in.requested, *out.mutable_requested());
}

void fill(const SelectionSettings& in, v1::SelectionRule& out) {
  const bool keys = in.family == Family::kKascade;
  out.set_family(keys ? v1::SELECTION_FAMILY_KASCADE : v1::SELECTION_FAMILY_TILE);
  out.set_tile_size(in.query_tile);
  if (keys) {
    out.set_ratio(in.ratio);
    out.set_min_keys(in.min_keys);
    if (in.mass > 0) {
      out.set_mass(in.mass);
      out.set_max_ratio(in.max_ratio);
    }
  } else {
    out.set_top_k(in.top_k);
  }
  out.set_decode_own_tile(in.decode_own_tile);
  out.set_sink_keys(in.sink_keys);
  const bool sum = keys && in.pooling == ScorePooling::kSum;
  out.set_pooling(sum ? v1::SCORE_POOLING_SUM : v1::SCORE_POOLING_MAX);
  out.set_all_heads(in.all_heads);
  out.set_int4_keys(in.int4_keys);
  out.set_dense_below(in.dense_below);
}

void fill(const LayerSchedule& in, v1::LayerPlan& out) {
  out.set_role(to_proto(in.role));
  out.set_anchor(in.anchor);
  out.mutable_head_map()->Add(in.head_map.begin(), in.head_map.end());
  out.set_similarity(in.similarity);
  out.set_importance(in.importance);
  if (in.reuse_cost) out.set_reuse_cost(*in.reuse_cost);
  out.set_reason(in.reason);
}

void fill(const KindQuality& in, v1::KindQuality& out) {
  out.set_kind(in.kind);
  out.set_windows(in.windows);
  out.set_tokens(in.tokens);
  out.set_dense_perplexity(in.dense_perplexity);
  out.set_sparse_perplexity(in.sparse_perplexity);
  out.set_degradation_percent(in.degradation_percent);
  out.set_degradation_percent_standard_error(in.degradation_error_percent);
  out.set_mean_kl(in.mean_kl);
  out.set_kl_99th_percentile(in.kl_99th_percentile);
  out.set_same_top1_ratio(in.same_top1);
  out.set_passed(in.passed);
}

void fill(const RetrievalQuality& in, v1::RetrievalQuality& out) {
  out.set_prompt_tokens(in.prompt_tokens);
  out.set_asked(in.asked);
  out.set_dense_found(in.dense_found);
  if (in.measurable) out.set_sparse_found(in.sparse_found);
  out.set_lost(in.lost);
  out.set_p_value(in.p_value);
  out.set_passed(in.passed);
}

void fill(const QualityRecord& in, v1::QualityReport& out) {
  out.set_phase(in.phase);
  out.set_protocol(in.protocol);
  out.set_tokens(in.tokens);
  out.set_dense_perplexity(in.dense_perplexity);
  out.set_sparse_perplexity(in.sparse_perplexity);
  if (!in.suspect) out.set_degradation_percent(in.degradation_percent);
  if (!in.suspect && in.degradation_error_percent) {
    out.set_degradation_percent_standard_error(*in.degradation_error_percent);
  }
  out.set_mean_kl(in.mean_kl);
  out.set_same_top1_ratio(in.same_top1);
  out.set_keys_attended_ratio(in.keys_attended_ratio);
  out.set_keys_scored_ratio(in.keys_scored_ratio);
  if (in.kv_bytes_read_per_token) out.set_kv_bytes_read_per_token(*in.kv_bytes_read_per_token);
  if (in.dense_kv_bytes_read_per_token) {
    out.set_dense_kv_bytes_read_per_token(*in.dense_kv_bytes_read_per_token);
  }
  out.set_max_degradation_percent(in.max_degradation_percent);
  out.set_suspect(in.suspect);
  if (in.doubt) out.set_doubt(*in.doubt);
  out.set_passed(in.passed);
  out.set_checked_tokens(in.checked_tokens);
  for (const KindQuality& kind : in.kinds) fill(kind, *out.add_kinds());
  for (const RetrievalQuality& length : in.retrieval) fill(length, *out.add_retrieval());
}

}  // namespace

v1::Schedule to_proto(const Schedule& schedule) {
  v1::Schedule out;
  out.set_schedule_id(schedule.schedule_id);
  fill(schedule.model, *out.mutable_model());
  absl::Time created;
  if (absl::ParseTime(absl::RFC3339_full, schedule.created_at, &created, nullptr)) {
    out.mutable_created_at()->set_seconds(absl::ToUnixSeconds(created));
  }
  fill(schedule.calibration, *out.mutable_calibration());
  fill(schedule.selection, *out.mutable_selection());
  for (const LayerSchedule& layer : schedule.layers) fill(layer, *out.add_layers());
  fill(schedule.quality, *out.mutable_quality());
  out.set_reuse_layers_ratio(schedule.reuse_layers_ratio());
  return out;
}

v1::GateCandidate to_proto(const QualityCheckResult& result) {
  v1::GateCandidate out;
  out.set_anchors(result.anchors);
  out.set_dense_layers(result.dense_layers);
  out.set_predicted_similarity(result.predicted_similarity);
  if (result.mass > 0) out.set_mass(result.mass);
  fill(result.quality, *out.mutable_quality());
  return out;
}

}  // namespace kascade::server
