// The fields of what a calibration's file holds (calibration_file.h).
#ifndef KASCADE_SERVER_CORE_CALIBRATION_FIELDS_H_
#define KASCADE_SERVER_CORE_CALIBRATION_FIELDS_H_

#include "engine/base/byte_archive.h"
#include "engine/calibration/calibration.h"
#include "engine/schedule/quality_fields.h"
#include "engine/schedule/schedule.h"

namespace kascade {

template <typename Visitor, Is<SelectionSettings> Record>
void visit_fields(Visitor& visit, Record& settings) {
  visit("family", settings.family);
  visit("query_tile", settings.query_tile);
  visit("ratio", settings.ratio);
  visit("min_keys", settings.min_keys);
  visit("mass", settings.mass);
  visit("max_ratio", settings.max_ratio);
  visit("top_k", settings.top_k);
  visit("decode_own_tile", settings.decode_own_tile);
  visit("sink_keys", settings.sink_keys);
  visit("pooling", settings.pooling);
  visit("all_heads", settings.all_heads);
  visit("int4_keys", settings.int4_keys);
  visit("dense_below", settings.dense_below);
}

template <typename Visitor, Is<GreedyOptions> Record>
void visit_fields(Visitor& visit, Record& greedy) {
  visit("threshold", greedy.threshold);
  visit("max_reuse_dist", greedy.max_reuse_dist);
}

template <typename Visitor, Is<CalibrationOptions> Record>
void visit_fields(Visitor& visit, Record& options) {
  visit("selection", options.selection);
  visit("planner", options.planner);
  visit("layer_cost", options.layer_cost);
  visit("anchors", options.anchors);
  visit("greedy", options.greedy);
  visit("searches_mass", options.searches_mass);
  visit("dense_layers", options.dense_layers);
  visit("auto_dense_layers", options.auto_dense_layers);
  visit("min_recall", options.min_recall);
  visit("auto_threshold", options.auto_threshold);
  visit("published_head_map_slip", options.published_head_map_slip);
  visit("window_tokens", options.window_tokens);
  visit("long_window", options.long_window);
  visit("checks_long_windows", options.checks_long_windows);
  visit("join_texts", options.join_texts);
  visit("max_degradation_percent", options.max_degradation_percent);
  visit("retrieval", options.retrieval);
  visit("dense_below", options.dense_below);
}

template <typename Visitor, Is<CalibrationTexts> Record>
void visit_fields(Visitor& visit, Record& texts) {
  visit("texts", texts.texts);
  visit("held_out", texts.held_out);
  visit("kinds", texts.kinds);
  visit("held_out_kinds", texts.held_out_kinds);
}

template <typename Visitor, Is<CalibrationProgress> Record>
void visit_fields(Visitor& visit, Record& progress) {
  visit("stage", progress.stage);
  visit("done_tokens", progress.done_tokens);
  visit("total_tokens", progress.total_tokens);
  visit("candidate_anchors", progress.candidate_anchors);
}

template <typename Visitor, Is<QualityCheckResult> Record>
void visit_fields(Visitor& visit, Record& candidate) {
  visit("anchors", candidate.anchors);
  visit("dense_layers", candidate.dense_layers);
  visit("predicted_similarity", candidate.predicted_similarity);
  visit("mass", candidate.mass);
  visit("quality", candidate.quality);
}

template <typename Visitor, Is<SimilaritySpread> Record>
void visit_fields(Visitor& visit, Record& spread) {
  visit("min", spread.min);
  visit("median", spread.median);
  visit("max", spread.max);
}

template <typename Visitor, Is<MeasuredLayer> Record>
void visit_fields(Visitor& visit, Record& layer) {
  visit("recall", layer.recall);
  visit("similarity", layer.similarity);
}

template <typename Visitor, Is<SimilarPair> Record>
void visit_fields(Visitor& visit, Record& pair) {
  visit("layer", pair.layer);
  visit("anchor", pair.anchor);
  visit("similarity", pair.similarity);
  visit("threshold", pair.threshold);
}

template <typename Visitor, Is<AutoThreshold> Record>
void visit_fields(Visitor& visit, Record& threshold) {
  visit("median_similarity", threshold.median_similarity);
  visit("threshold", threshold.threshold);
}

}  // namespace kascade

#endif  // KASCADE_SERVER_CORE_CALIBRATION_FIELDS_H_
