#include "client/benchmark/settings.h"

#include <google/protobuf/descriptor.h>

namespace kascade::client {
namespace {

struct PresetValues {
  double threshold;
  int32_t top_k, max_reuse_dist, tile_size, window_tokens;
};

// Families' defaults where no preset is named.
constexpr PresetValues kNoPreset = {0.65, 12, 4, 16, 2048};

// As calibration_service.proto states them.
PresetValues values_of(v1::CalibrationPreset preset) {
  const auto* value = v1::CalibrationPreset_descriptor()->FindValueByNumber(preset);
  if (value == nullptr || !value->options().HasExtension(v1::preset_options)) return kNoPreset;
  const v1::PresetOptions& options = value->options().GetExtension(v1::preset_options);
  return {options.threshold(), options.top_k(), options.max_reuse_dist(), options.tile_size(),
          options.window_tokens()};
}

}  // namespace

v1::CalibrateRequest with_defaults(const v1::CalibrateRequest& request) {
  const PresetValues preset = values_of(request.preset());
  v1::CalibrateRequest out = request;
  out.clear_texts();
  const bool implies_tiles = request.preset() != v1::CALIBRATION_PRESET_UNSPECIFIED ||
                             request.has_threshold() || request.auto_threshold() ||
                             request.has_top_k() || request.has_max_reuse_dist();
  if (!out.has_family()) {
    out.set_family(implies_tiles ? v1::SELECTION_FAMILY_TILE : v1::SELECTION_FAMILY_KASCADE);
  }
  const bool tile = out.family() == v1::SELECTION_FAMILY_TILE;
  if (!out.has_maker()) {
    out.set_maker(tile ? v1::SCHEDULE_MAKER_GREEDY : v1::SCHEDULE_MAKER_DP);
  }
  if (!out.has_tile_size()) out.set_tile_size(tile ? preset.tile_size : 32);
  if (tile && !out.has_top_k()) out.set_top_k(preset.top_k);
  if (!tile && !out.has_ratio()) out.set_ratio(0.1);
  if (!tile && !out.has_min_keys()) out.set_min_keys(128);
  if (out.maker() == v1::SCHEDULE_MAKER_GREEDY) {
    if (!out.has_threshold() && !out.auto_threshold()) out.set_threshold(preset.threshold);
    if (!out.has_max_reuse_dist()) out.set_max_reuse_dist(preset.max_reuse_dist);
  }
  if (!out.has_window_tokens()) out.set_window_tokens(preset.window_tokens);
  if (!out.has_max_degradation_percent()) out.set_max_degradation_percent(1);
  return out;
}

}  // namespace kascade::client
