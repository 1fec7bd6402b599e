#include "server/metrics/shadow_metrics.h"

namespace kascade::metrics {
namespace {

const prometheus::Histogram::BucketBoundaries& kl_buckets() {
  static const prometheus::Histogram::BucketBoundaries buckets{.0001, .0003, .001, .003, .01,
                                                               .03,   .1,    .3,   1,    3};
  return buckets;
}

const char* name_of(ShadowKind kind) {
  return kind == ShadowKind::kGenerate ? "generate" : "score";
}

const char* name_of(ShadowOutcome outcome) {
  switch (outcome) {
    case ShadowOutcome::kCompared:
      return "compared";
    case ShadowOutcome::kSkipped:
      return "skipped";
    case ShadowOutcome::kFailed:
      return "failed";
  }
  return "";
}

}  // namespace

// Every sample exists from the start, so that rates are 0 and not absent before a comparison.
ShadowMetrics::ShadowMetrics(prometheus::Registry& registry)
    : kl(prometheus::BuildHistogram()
             .Name("kascade_shadow_kl_nats")
             .Help("Mean KL divergence per token of a sparse request from dense attention, nats.")
             .Register(registry)),
      tokens(prometheus::BuildCounter()
                 .Name("kascade_shadow_tokens_total")
                 .Help("Tokens of sparse requests that were compared with dense attention.")
                 .Register(registry)),
      same_top1(prometheus::BuildCounter()
                    .Name("kascade_shadow_same_top1_tokens_total")
                    .Help("Of these, tokens with the same most likely token.")
                    .Register(registry)),
      runs(prometheus::BuildCounter()
               .Name("kascade_shadow_runs_total")
               .Help("Comparisons of a sparse request with dense attention, by outcome.")
               .Register(registry)) {
  for (const ShadowKind kind : {ShadowKind::kGenerate, ShadowKind::kScore}) {
    kl.Add({{"kind", name_of(kind)}}, kl_buckets());
    tokens.Add({{"kind", name_of(kind)}});
    same_top1.Add({{"kind", name_of(kind)}});
  }
  for (const ShadowOutcome outcome :
       {ShadowOutcome::kCompared, ShadowOutcome::kSkipped, ShadowOutcome::kFailed}) {
    runs.Add({{"outcome", name_of(outcome)}});
  }
}

void ShadowMetrics::observe(ShadowKind kind, int64_t compared, double kl_sum, int64_t same) {
  const prometheus::Labels labels{{"kind", name_of(kind)}};
  const auto count_of_tokens = static_cast<double>(compared);
  kl.Add(labels, kl_buckets()).Observe(kl_sum / count_of_tokens);
  tokens.Add(labels).Increment(count_of_tokens);
  same_top1.Add(labels).Increment(static_cast<double>(same));
  count(ShadowOutcome::kCompared);
}

void ShadowMetrics::count(ShadowOutcome outcome) {
  runs.Add({{"outcome", name_of(outcome)}}).Increment();
}

}  // namespace kascade::metrics
