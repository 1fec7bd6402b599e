// The fields of a quality record in JSON: one list per record, which both the writer and the reader
// of schedule_json.cc visit.
#ifndef KASCADE_ENGINE_SCHEDULE_QUALITY_FIELDS_H_
#define KASCADE_ENGINE_SCHEDULE_QUALITY_FIELDS_H_

#include <concepts>
#include <type_traits>

#include "engine/schedule/quality_record.h"

namespace kascade {

template <typename T, typename Record>
concept Is = std::same_as<std::remove_const_t<T>, Record>;

template <typename Visitor, Is<KindQuality> Record>
void visit_fields(Visitor& visit, Record& row) {
  visit("kind", row.kind);
  visit("windows", row.windows);
  visit("tokens", row.tokens);
  visit("dense_perplexity", row.dense_perplexity);
  visit("sparse_perplexity", row.sparse_perplexity);
  visit("degradation_percent", row.degradation_percent);
  visit("degradation_error_percent", row.degradation_error_percent);
  visit("mean_kl", row.mean_kl);
  visit("kl_99th_percentile", row.kl_99th_percentile);
  visit("same_top1", row.same_top1);
  visit("passed", row.passed);
}

template <typename Visitor, Is<RetrievalQuality> Record>
void visit_fields(Visitor& visit, Record& row) {
  visit("prompt_tokens", row.prompt_tokens);
  visit("asked", row.asked);
  visit("dense_found", row.dense_found);
  visit("measurable", row.measurable);
  visit("sparse_found", row.sparse_found);
  visit("lost", row.lost);
  visit("p_value", row.p_value);
  visit("passed", row.passed);
}

template <typename Visitor, Is<QualityRecord> Record>
void visit_fields(Visitor& visit, Record& quality) {
  visit("phase", quality.phase);
  visit("protocol", quality.protocol);
  visit("tokens", quality.tokens);
  visit("dense_perplexity", quality.dense_perplexity);
  visit("sparse_perplexity", quality.sparse_perplexity);
  visit("degradation_percent", quality.degradation_percent);
  visit.optional("degradation_error_percent", quality.degradation_error_percent);
  visit("mean_kl", quality.mean_kl);
  visit("same_top1", quality.same_top1);
  visit("keys_attended_ratio", quality.keys_attended_ratio);
  visit("keys_scored_ratio", quality.keys_scored_ratio);
  visit.optional("kv_bytes_read_per_token", quality.kv_bytes_read_per_token);
  visit.optional("dense_kv_bytes_read_per_token", quality.dense_kv_bytes_read_per_token);
  visit("max_degradation_percent", quality.max_degradation_percent);
  visit("suspect", quality.suspect);
  visit.optional("doubt", quality.doubt);
  visit.unless("checked_tokens", quality.checked_tokens, 0);
  visit.rows("kinds", quality.kinds);
  visit.rows("retrieval", quality.retrieval);
  visit("passed", quality.passed);
}

}  // namespace kascade

#endif  // KASCADE_ENGINE_SCHEDULE_QUALITY_FIELDS_H_
