// What is measured of comparisons of sparse requests with dense attention (server/core/shadow.h).
#ifndef KASCADE_SERVER_METRICS_SHADOW_METRICS_H_
#define KASCADE_SERVER_METRICS_SHADOW_METRICS_H_

#include <cstdint>

#include "prometheus/counter.h"
#include "prometheus/family.h"
#include "prometheus/histogram.h"
#include "prometheus/registry.h"

namespace kascade::metrics {

enum class ShadowKind { kGenerate, kScore };                // what is compared
enum class ShadowOutcome { kCompared, kSkipped, kFailed };  // what became of a comparison

struct ShadowMetrics {
  explicit ShadowMetrics(prometheus::Registry& registry);

  // Takes a comparison in: KL(dense ‖ sparse) summed over its tokens, nats, and the tokens for
  // which both had the same most likely token. `compared` > 0: tokens.
  void observe(ShadowKind kind, int64_t compared, double kl_sum, int64_t same);
  // Counts a comparison that gave no figures; observe() counts the others.
  void count(ShadowOutcome outcome);

  prometheus::Family<prometheus::Histogram>& kl;  // {kind}, mean of a request, nats
  prometheus::Family<prometheus::Counter>& tokens;
  prometheus::Family<prometheus::Counter>& same_top1;
  prometheus::Family<prometheus::Counter>& runs;  // {outcome}
};

}  // namespace kascade::metrics

#endif  // KASCADE_SERVER_METRICS_SHADOW_METRICS_H_
