// Figures as SVG text, readable on light and dark pages.
#ifndef KASCADE_CLIENT_EVAL_FIGURES_H_
#define KASCADE_CLIENT_EVAL_FIGURES_H_

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace kascade::client {

struct Series {
  std::string name{};
  std::vector<std::pair<double, double>> points{};  // in the order they are joined
};

// Both axes logarithmic: what is not above 0 is left out.
struct LineChart {
  std::string title{}, x_label{}, y_label{};
  std::vector<Series> series{};
};
std::string draw(const LineChart& chart);

// values[row][column] from `low` (light) to `high` (dark); NaN leaves the cell empty.
struct HeatMap {
  std::string title{}, x_label{}, y_label{};
  std::vector<std::string> columns{}, rows{};
  std::vector<std::vector<double>> values{};
  double low = 0, high = 1;
};
std::string draw(const HeatMap& map);

// One row per layer: its role, and a line from each KV head to the anchor's head that it uses.
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
