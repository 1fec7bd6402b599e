#include "client/eval/variants.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "client/views/reports.h"

namespace kascade::client {
namespace {

constexpr double kRatios[] = {0.025, 0.05, 0.1, 0.2, 0.3, 0.5};
constexpr double kDefaultRatio = 0.1;

constexpr double kLowThresholds[] = {0.5, 0.4, 0.3, 0.2, 0};

// The quality limit of every request. It is so high that all candidates pass, because the suite
// measures bad ones too.
constexpr double kAnyDegradation = 1000;

v1::CalibrateRequest dp_request(double ratio, int32_t anchors) {
  v1::CalibrateRequest request;
  request.set_family(v1::SELECTION_FAMILY_KASCADE);
  request.set_maker(v1::SCHEDULE_MAKER_DP);
  request.set_ratio(ratio);
  request.set_min_keys(kMinKeys);
  request.set_anchors(anchors);
  request.set_max_degradation_percent(kAnyDegradation);
  return request;
}

// The calibration request of the default schedule, which leaves the number of anchors to the
// server.
v1::CalibrateRequest automatic_request() {
  v1::CalibrateRequest request = dp_request(kDefaultRatio, 0);
  request.clear_anchors();
  request.clear_max_degradation_percent();
  return request;
}

// Requests a schedule with as many layers of each role as the default schedule has; the planner
// chooses anew which layers they are.
v1::CalibrateRequest request_with_default_roles(const VariantOptions& options, double ratio) {
  v1::CalibrateRequest request = dp_request(ratio, options.default_anchors);
  request.mutable_dense_layers()->Add(options.default_dense.begin(), options.default_dense.end());
  return request;
}

// Numbers of anchors from few to nearly all layers.
std::vector<int32_t> anchor_counts(int32_t layers) {
  std::vector<int32_t> counts;
  for (const double share : {0.17, 0.25, 0.33, 0.5, 0.67, 0.84}) {
    const auto count = static_cast<int32_t>(std::lround(share * layers));
    if (count >= 2 && (counts.empty() || count > counts.back())) counts.push_back(count);
  }
  return counts;
}

void add_kascade(const VariantOptions& options, std::vector<Variant>& variants) {
  // Ordered so that consecutive requests differ only in the number of anchors where possible,
  // because a server then builds a schedule again without measuring again.
  for (const double ratio : kRatios) {
    for (const int32_t anchors : anchor_counts(options.layers)) {
      variants.push_back({.group = "kascade",
                          .label = fmt::format("{} selecting layers, {:g} %", anchors, 100 * ratio),
                          .ratio = ratio,
                          .calibration = dp_request(ratio, anchors)});
    }
  }
}

// Adds rows that select tiles of 16 keys, with as many tiles as the same fractions of 4,096 keys
// contain. Rows are skipped if the context does not have more keys to choose from.
void add_tile(const VariantOptions& options, std::vector<Variant>& variants) {
  constexpr int32_t kTile = 16, kKeys = 4096;
  for (const double ratio : kRatios) {
    v1::CalibrateRequest request = request_with_default_roles(options, ratio);
    request.clear_ratio();
    request.clear_min_keys();
    request.set_family(v1::SELECTION_FAMILY_TILE);
    request.set_tile_size(kTile);
    request.set_top_k(static_cast<int32_t>(std::lround(ratio * kKeys / kTile)));
    // Windows of the usual length have no more than half of 4,096 keys.
    if (ratio >= 0.5) request.set_window_tokens(kKeys);
    if ((static_cast<int32_t>(request.top_k()) + 2) * kTile > options.context) continue;
    variants.push_back({.group = "tile",
                        .label = fmt::format("{} tiles of {}", request.top_k(), kTile),
                        .ratio = ratio,
                        .calibration = std::move(request)});
  }
}

v1::CalibrateRequest preset_request(v1::CalibrationPreset preset) {
  v1::CalibrateRequest request;
  request.set_preset(preset);
  request.set_max_degradation_percent(kAnyDegradation);
  return request;
}

// Adds the presets, and `balanced` with lower thresholds, down to one at which a layer becomes an
// anchor only because of its distance to the previous anchor.
void add_greedy(std::vector<Variant>& variants) {
  for (const auto preset : {v1::CALIBRATION_PRESET_BALANCED, v1::CALIBRATION_PRESET_CONSERVATIVE,
                            v1::CALIBRATION_PRESET_AGGRESSIVE}) {
    variants.push_back(
        {.group = "greedy", .label = name_of(preset), .calibration = preset_request(preset)});
  }
  for (const double threshold : kLowThresholds) {
    v1::CalibrateRequest request = preset_request(v1::CALIBRATION_PRESET_BALANCED);
    request.set_threshold(threshold);
    variants.push_back({.group = "greedy",
                        .label = fmt::format("threshold {:g}", threshold),
                        .calibration = std::move(request)});
  }
}

Variant baseline_variant(const char* group, std::string label, v1::BaselineKind kind,
                         double ratio) {
  Variant variant{.group = group, .label = std::move(label), .ratio = ratio};
  v1::AttentionBaseline& baseline = *variant.attention.mutable_baseline();
  baseline.set_kind(kind);
  baseline.set_ratio(ratio);
  baseline.set_min_keys(kMinKeys);
  return variant;
}

void add_baselines(std::vector<Variant>& variants) {
  for (const auto kind :
       {v1::BASELINE_KIND_ORACLE, v1::BASELINE_KIND_STREAMING, v1::BASELINE_KIND_QUEST}) {
    for (const double ratio : kRatios) {
      variants.push_back(baseline_variant(
          "baseline", fmt::format("{}, {:g} %", name_of(kind), 100 * ratio), kind, ratio));
    }
  }
}

// Adds experiments: schedules with as many layers of each role as the default schedule has, each
// with one setting changed.
void add_experiments(const VariantOptions& options, std::vector<Variant>& variants) {
  const auto add = [&](const char* label, const auto& change) {
    Variant variant{.group = "experiment",
                    .label = label,
                    .ratio = kDefaultRatio,
                    .calibration = request_with_default_roles(options, kDefaultRatio)};
    change(variant);
    variants.push_back(std::move(variant));
  };
  add("as the default", [](Variant&) {});
  add("head maps with the published slip",
      [](Variant& variant) { variant.calibration->set_published_head_map_slip(true); });
  add("own tile not forced in decoding",
      [](Variant& variant) { variant.calibration->set_decode_own_tile(false); });
  add("one choice for all KV heads",
      [](Variant& variant) { variant.calibration->set_all_heads(true); });
  add("scores pooled by the largest",
      [](Variant& variant) { variant.calibration->set_pooling(v1::SCORE_POOLING_MAX); });
  add("layers weighted by importance, as published",
      [](Variant& variant) { variant.calibration->set_plan_weight(v1::PLAN_WEIGHT_IMPORTANCE); });
  add("4 sink keys", [](Variant& variant) { variant.calibration->set_sink_keys(4); });
  add("automatic, quality check at 0.5 %", [](Variant& variant) {
    variant.calibration = automatic_request();
    variant.calibration->set_max_degradation_percent(0.5);
  });
  if (options.others.empty()) return;
  add("calibrated on texts of all kinds", [](Variant& variant) { variant.mixes_texts = true; });
}

// Adds rows that score a longer part of each text, with the schedule that is active already or with
// an automatic one that was calibrated on texts of all kinds.
void add_domains(const VariantOptions& options, bool mixes, std::vector<Variant>& variants) {
  for (int32_t text = -1; text < static_cast<int32_t>(options.others.size()); ++text) {
    Variant variant{.group = "domain",
                    .label = fmt::format("{}, calibrated on {}",
                                         text < 0 ? options.held_out : options.others[text],
                                         mixes ? "texts of all kinds" : "the one text"),
                    .ratio = kDefaultRatio,
                    .mixes_texts = mixes,
                    .text = text,
                    .is_long = true};
    if (mixes && text < 0) variant.calibration = automatic_request();
    variants.push_back(std::move(variant));
  }
}

void keep_groups(const VariantOptions& options, std::vector<Variant>& variants) {
  std::erase_if(variants, [&](const Variant& variant) {
    return !variant.is_default && !options.groups.empty() &&
           std::ranges::find(options.groups, variant.group) == options.groups.end();
  });
}

}  // namespace

std::vector<Variant> default_variants(const VariantOptions& options) {
  std::vector<Variant> variants = {{.group = "kascade",
                                    .label = "automatic, 10 %",
                                    .ratio = kDefaultRatio,
                                    .calibration = automatic_request(),
                                    .is_default = true}};
  add_domains(options, /*mixes=*/false, variants);
  keep_groups(options, variants);
  return variants;
}

std::vector<Variant> other_variants(const VariantOptions& options) {
  std::vector<Variant> variants;
  add_kascade(options, variants);
  add_tile(options, variants);
  add_greedy(variants);
  add_baselines(variants);
  add_experiments(options, variants);
  if (!options.others.empty()) add_domains(options, /*mixes=*/true, variants);
  keep_groups(options, variants);
  return variants;
}

size_t expected_rows(const VariantOptions& options) {
  const std::vector<Variant> variants = other_variants(options);
  const auto greedy = std::ranges::count(variants, "greedy", &Variant::group);
  const auto kascade = std::ranges::count_if(variants, [](const Variant& variant) {
    return variant.group == "kascade" && variant.ratio == kDefaultRatio;
  });
  const auto baselines = std::ranges::count(variants, "baseline", &Variant::group);
  const auto equal_bytes = baselines == 0 ? 0 : 2 * (1 + kascade);
  return default_variants(options).size() + variants.size() +
         static_cast<size_t>(greedy + equal_bytes);
}

Variant dp_like(const std::string& greedy, int32_t anchors) {
  // Apart from settings that only the greedy planner has, the rows of that group differ in top_k.
  const int32_t top_k = greedy == "conservative" ? 16 : greedy == "aggressive" ? 10 : 12;
  v1::CalibrateRequest request;
  request.set_family(v1::SELECTION_FAMILY_TILE);
  request.set_maker(v1::SCHEDULE_MAKER_DP);
  request.set_tile_size(16);
  request.set_top_k(top_k);
  request.set_anchors(anchors);
  request.set_max_degradation_percent(kAnyDegradation);
  return {.group = "greedy",
          .label = fmt::format("dp with as many selecting layers as {}", greedy),
          .calibration = std::move(request),
          .comparison_row = greedy};
}

Variant reading_like(const std::string& kascade, v1::BaselineKind kind, double ratio) {
  Variant variant = baseline_variant(
      "equal bytes", fmt::format("{} beside {}", name_of(kind), kascade), kind, ratio);
  variant.comparison_row = kascade;
  return variant;
}

}  // namespace kascade::client
