#include "client/views/calibration_view.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "client/views/schedule_view.h"
#include "tools/terminal/print.h"

namespace kascade::client {
namespace {

// The similarities of the layers to the layer before: smallest, median, largest. Layer 0 serves no
// layer under the greedy planner, but the figure describes the model.
std::string neighbours_text(const v1::CalibrationResult& result) {
  std::vector<double> values;
  for (const auto& row : result.similarity()) {
    if (row.to_layers_size() > 1) values.push_back(row.to_layers(1));
  }
  if (values.empty()) return "";
  std::ranges::sort(values);
  const size_t middle = values.size() / 2;
  const double median =
      values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
  return fmt::format("min {}, median {}, max {}", percent(values.front()), percent(median),
                     percent(values.back()));
}

std::string auto_threshold_text(const v1::AutoThreshold& chosen) {
  return fmt::format("0.9 × median similarity {} = {}", fixed(chosen.median_similarity(), 4),
                     fixed(chosen.threshold(), 4));
}

std::string findings_text(const v1::CalibrationResult& result) {
  Facts facts;
  const std::string neighbours = neighbours_text(result);
  if (!neighbours.empty()) facts.add("Similarity to the layer before", neighbours);
  if (result.has_auto_threshold()) {
    facts.add("Threshold auto", auto_threshold_text(result.auto_threshold()));
  }
  const std::string no_reuse = no_reuse_text(result);
  if (!no_reuse.empty()) facts.add("No layer reuses", no_reuse);
  return facts.text();
}

}  // namespace

std::string suspect_text(const v1::CalibrationResult& result) {
  std::string text =
      "the dense model is hardly better than guessing on this text, so no schedule can pass, and "
      "no "
      "option of the calibration changes that: the model, its tokenizer or their conversion is at "
      "fault";
  if (!result.suspect_causes().empty()) {
    text += fmt::format(". Usual causes: {}", fmt::join(result.suspect_causes(), "; "));
  }
  return text;
}

std::string no_reuse_text(const v1::CalibrationResult& result) {
  const auto& schedule = result.schedule();
  if (schedule.reuse_layers_ratio() > 0 || schedule.quality().suspect()) return "";
  if (!schedule.calibration().has_threshold()) {
    return schedule.calibration().requested().has_anchors()
               ? "as many layers select as were asked for; fewer --anchors let layers reuse"
               : "no schedule in which layers reuse passed";
  }
  if (!result.has_most_similar_pair()) {
    return "none may: layer 0 serves no other layer, and a layer reuses one at most "
           "--max-reuse-dist less 1 layers before it that does not stay dense";
  }
  const auto& pair = result.most_similar_pair();
  return fmt::format(
      "the highest similarity met is {}, of layer {} to layer {}, below the threshold {}; "
      "--threshold {} lets it reuse, --threshold auto takes 0.9 × the median similarity",
      percent(pair.similarity()), pair.layer(), pair.anchor(),
      percent(schedule.calibration().threshold()), fixed(pair.threshold(), 2));
}

std::string calibration_text(const v1::CalibrationResult& result) {
  std::string out = schedule_text(result.schedule(), &result) + findings_text(result) + "\n" +
                    quality_check_text(result);
  if (!result.warning().empty() && !saves_nothing(result.schedule().quality())) {
    out += "Warning: " + result.warning() + "\n";
  }
  return out;
}

Json measurement_json(const v1::CalibrationResult& result) {
  Json layers = Json::array();
  for (const auto& layer : result.layers()) {
    Json entry = {{"recall", layer.recall()}, {"similarity", nullptr}};
    if (layer.has_similarity()) {
      entry["similarity"] = {{"min", layer.similarity().min()},
                             {"median", layer.similarity().median()},
                             {"max", layer.similarity().max()}};
    }
    layers.push_back(std::move(entry));
  }
  Json out = {{"layers_measured", std::move(layers)},
              {"most_similar_pair", nullptr},
              {"auto_threshold", nullptr},
              {"suspect_causes", result.suspect_causes()},
              {"warning", result.warning()}};
  if (result.has_most_similar_pair()) {
    const auto& pair = result.most_similar_pair();
    out["most_similar_pair"] = {{"layer", pair.layer()},
                                {"anchor", pair.anchor()},
                                {"similarity", pair.similarity()},
                                {"threshold", pair.threshold()}};
  }
  if (result.has_auto_threshold()) {
    out["auto_threshold"] = {{"median_similarity", result.auto_threshold().median_similarity()},
                             {"threshold", result.auto_threshold().threshold()}};
  }
  return out;
}

std::string presets_text() {
  const auto& presets = *v1::CalibrationPreset_descriptor();
  std::string out;
  for (int i = 0; i < presets.value_count(); ++i) {
    const auto& value = *presets.value(i);
    if (!value.options().HasExtension(v1::preset_options)) continue;
    const v1::PresetOptions& options = value.options().GetExtension(v1::preset_options);
    std::string name = short_name(presets, value.number());
    std::ranges::replace(name, '_', '-');
    out += fmt::format(
        "  {:<13} --threshold {:g} --top-k {} --max-reuse-dist {} --tile-size {} --window-tokens "
        "{}\n",
        name, options.threshold(), options.top_k(), options.max_reuse_dist(), options.tile_size(),
        options.window_tokens());
  }
  return out;
}

}  // namespace kascade::client
