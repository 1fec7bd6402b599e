// Draws figures as SVG text that is readable on light and dark backgrounds.
#ifndef KASCADE_CLIENT_EVAL_FIGURES_H_
#define KASCADE_CLIENT_EVAL_FIGURES_H_

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace kascade::client {

struct Series {
  std::string name{};
  std::vector<std::pair<double, double>> points{};  // joined in this order
};

// A line chart with two logarithmic axes; points with a coordinate ≤ 0 are omitted.
struct LineChart {
  std::string title{}, x_label{}, y_label{};
  std::vector<Series> series{};
};
std::string draw(const LineChart& chart);

// A heat map of values[row][column]; colours range from light at `low` to dark at `high`. A NaN
// leaves its cell empty.
struct HeatMap {
  std::string title{}, x_label{}, y_label{};
  std::vector<std::string> columns{}, rows{};
  std::vector<std::vector<double>> values{};
  double low = 0, high = 1;
};
std::string draw(const HeatMap& map);

// A picture of a schedule with one row per layer. It shows the layer's role and a line from each KV
// head to the head of the anchor layer whose keys it reuses.
struct SchedulePicture {
  struct Layer {
    std::string role{};  // "dense", "anchor", "reuse"
    int32_t anchor = 0;
    std::vector<int32_t> head_map{};
    double similarity = 0;
  };
  std::string title{};
  std::vector<Layer> layers{};
};
std::string draw(const SchedulePicture& picture);

}  // namespace kascade::client

#endif  // KASCADE_CLIENT_EVAL_FIGURES_H_
