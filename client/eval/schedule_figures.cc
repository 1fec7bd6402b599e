#include "client/eval/schedule_figures.h"

#include <limits>

#include "client/eval/figures.h"
#include "client/views/reports.h"

namespace kascade::client {

std::string similarity_figure(const v1::CalibrationResult& schedule) {
  HeatMap map{
      .title = "How much of its own choice's attention a layer keeps with another's (worst tile)",
      .x_label = "layer that attends",
      .y_label = "layer that chooses"};
  const int layers = schedule.similarity_size();
  for (int from = 0; from < layers; ++from) {
    map.rows.push_back(std::to_string(from));
    map.columns.push_back(std::to_string(from));
    map.values.emplace_back(static_cast<size_t>(layers), std::numeric_limits<double>::quiet_NaN());
    const auto& row = schedule.similarity(from).to_layers();
    for (int i = 0; i < row.size(); ++i) {
      map.values.back()[static_cast<size_t>(from + i)] = row.Get(i);
    }
  }
  return draw(map);
}

std::string schedule_figure(const v1::Schedule& schedule) {
  SchedulePicture picture{.title =
                              "The automatic schedule: layers, KV heads and whose keys they use"};
  for (const auto& layer : schedule.layers()) {
    picture.layers.push_back({.role = name_of(layer.role()),
                              .anchor = layer.anchor(),
                              .head_map = {layer.head_map().begin(), layer.head_map().end()},
                              .similarity = layer.similarity()});
  }
  return draw(picture);
}

}  // namespace kascade::client
