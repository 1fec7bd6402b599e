#include "engine/calibration/layer_costs.h"

#include <algorithm>
#include <utility>

namespace kascade {
namespace {

// Lower limits of what a layer cost is computed from. The text is short, so values near 0 are
// chance, and no layer may appear to be free.
constexpr double kLeastLostRecall = 1e-2;
constexpr double kLeastShareOfMeanCost = 1e-2;

// The layer before `layer` whose keys serve it best; of equally good ones the lowest.
int32_t best_source(const Similarity& similarity, int32_t layer) {
  int32_t best = 0;
  for (int32_t source = 1; source < layer; ++source) {
    if (similarity.layer(source, layer) > similarity.layer(best, layer)) best = source;
  }
  return best;
}

// Mean KL from dense attention [nats per token].
struct MeasuredKl {
  double all_select = 0;          // all layers select that are not dense
  std::vector<double> reusing{};  // [layers] the same, but this layer reuses its best source
  std::vector<double> dense{};    // [layers] the same, but this layer is dense, if asked for
};

absl::StatusOr<MeasuredKl> measure_kl(const std::vector<LayerSchedule>& all,
                                      bool measures_selection_loss, const MeanKlOf& mean_kl_of,
                                      const Similarity& similarity) {
  const auto all_select = mean_kl_of(all);
  if (!all_select.ok()) return all_select.status();
  MeasuredKl measured{.all_select = *all_select,
                      .reusing = std::vector<double>(all.size(), *all_select),
                      .dense = std::vector<double>(all.size(), *all_select)};
  for (int32_t layer = 1; layer < similarity.layers(); ++layer) {
    if (all[layer].role == Role::kDense) continue;
    std::vector<LayerSchedule> changed = all;
    changed[layer] = reuse_layer(similarity, layer, best_source(similarity, layer));
    const auto reusing = mean_kl_of(changed);
    if (!reusing.ok()) return reusing.status();
    measured.reusing[layer] = *reusing;
    if (!measures_selection_loss) continue;
    changed[layer] = all[layer];
    changed[layer].role = Role::kDense;
    const auto dense = mean_kl_of(std::move(changed));
    if (!dense.ok()) return dense.status();
    measured.dense[layer] = *dense;
  }
  return measured;
}

// The cost of a layer is counted per square of the recall that it loses: small changes of a
// distribution cost their square.
std::vector<double> layer_costs_of(const Similarity& similarity) {
  double sum = 0;
  int32_t measured = 0;
  for (const std::optional<double>& cost : similarity.reuse_cost) {
    sum += cost.value_or(0);
    measured += cost ? 1 : 0;
  }
  std::vector<double> costs(static_cast<size_t>(similarity.layers()), 0);
  for (int32_t layer = 1; layer < similarity.layers(); ++layer) {
    const std::optional<double>& reuse_cost = similarity.reuse_cost[layer];
    if (!reuse_cost) continue;
    const double lost =
        std::max(kLeastLostRecall, 1 - similarity.layer(best_source(similarity, layer), layer));
    const double cost = std::max(*reuse_cost, kLeastShareOfMeanCost * sum / measured);
    costs[layer] = cost / (lost * lost);
  }
  return costs;
}

}  // namespace

absl::Status measure_layer_costs(const LayerCostOptions& options, const MeanKlOf& mean_kl_of,
                                 Similarity& similarity) {
  similarity.forget_costs();
  const std::vector<LayerSchedule> all =
      schedules_by_dynamic_programming(similarity, options.dense_layers).back();
  const auto kl = measure_kl(all, options.measures_selection_loss, mean_kl_of, similarity);
  if (!kl.ok()) return kl.status();
  if (options.measures_selection_loss) similarity.select_cost.assign(all.size(), 0);
  for (int32_t layer = 1; layer < similarity.layers(); ++layer) {
    if (all[layer].role == Role::kDense) continue;
    similarity.reuse_cost[layer] = std::max(0.0, kl->reusing[layer] - kl->all_select);
    if (!options.measures_selection_loss) continue;
    similarity.select_cost[layer] = std::max(0.0, kl->all_select - kl->dense[layer]);
  }
  similarity.layer_cost = layer_costs_of(similarity);
  return absl::OkStatus();
}

}  // namespace kascade
