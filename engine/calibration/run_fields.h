// The fields of what one run of a calibration gives, for RunResults.
#ifndef KASCADE_ENGINE_CALIBRATION_RUN_FIELDS_H_
#define KASCADE_ENGINE_CALIBRATION_RUN_FIELDS_H_

#include <cstdint>
#include <string_view>

#include "engine/attention/key_counts.h"
#include "engine/base/byte_archive.h"
#include "engine/calibration/crossover.h"
#include "engine/calibration/window_runs.h"
#include "engine/quality/comparison.h"
#include "engine/quality/doubt.h"
#include "engine/schedule/quality_fields.h"
#include "engine/schedule/schedule.h"

namespace kascade {

template <typename Visitor, Is<ComparisonSums> Record>
void visit_fields(Visitor& visit, Record& sums) {
  visit("tokens", sums.tokens);
  visit("first_nll", sums.first_nll);
  visit("second_nll", sums.second_nll);
  visit("difference_squares", sums.difference_squares);
  visit("kl", sums.kl);
  visit("same_top1", sums.same_top1);
}

template <typename Visitor, Is<AttentionCounts> Record>
void visit_fields(Visitor& visit, Record& counts) {
  visit("causal", counts.causal);
  visit("attended", counts.attended);
  visit("scored", counts.scored);
  visit("kv_bytes_read", counts.kv_bytes_read);
  visit("dense_kv_bytes_read", counts.dense_kv_bytes_read);
  visit("positions", counts.positions);
  visit("dense_positions", counts.dense_positions);
}

template <typename Visitor, Is<DoubtSums::Context> Record>
void visit_fields(Visitor& visit, Record& context) {
  visit("tokens", context.tokens);
  visit("nll", context.nll);
  visit("nll_squares", context.nll_squares);
}

template <typename Visitor, Is<DoubtSums> Record>
void visit_fields(Visitor& visit, Record& doubt) {
  visit("counts_nll", doubt.counts_nll);
  visit("short_context", doubt.short_context);
  visit("long_context", doubt.long_context);
}

template <typename Visitor, Is<WindowComparison> Record>
void visit_fields(Visitor& visit, Record& window) {
  visit("sums", window.sums);
  visit("counts", window.counts);
  visit("doubt", window.doubt);
  visit("kl", window.kl);
}

template <typename Visitor, Is<ChunkTime> Record>
void visit_fields(Visitor& visit, Record& chunk) {
  visit("begin", chunk.begin);
  visit("rows", chunk.rows);
  visit("seconds", chunk.seconds);
}

// Of one size: a reader knows the model.
template <typename Visitor, Is<Similarity> Record>
void visit_fields(Visitor& visit, Record& similarity) {
  const int32_t layers = similarity.layers(), heads = similarity.kv_heads();
  for (int32_t a = 0; a < layers; ++a) {
    for (int32_t b = 0; b < layers; ++b) {
      for (int32_t g = 0; g < heads * heads; ++g) {
        visit("value", similarity.at(a, b, g / heads, g % heads));
        visit("recall", similarity.recall(a, b, g / heads, g % heads));
      }
    }
  }
  visit("importance", similarity.importance);
  visit("self_recall", similarity.self_recall);
}

}  // namespace kascade

#endif  // KASCADE_ENGINE_CALIBRATION_RUN_FIELDS_H_
