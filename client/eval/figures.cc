#include "client/eval/figures.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

namespace kascade::client {
namespace {

// Colours that people with colour vision deficiency can tell apart, on white and on black.
constexpr const char* kColours[] = {"#0072b2", "#d55e00", "#009e73", "#cc79a7",
                                    "#e69f00", "#56b4e9", "#8c6bb1", "#7f7f7f",
                                    "#882255", "#44aa99", "#999933", "#000000"};
constexpr double kTitle = 34, kLegend = 170, kLeft = 76, kBottom = 52;

std::string escaped(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (c == '<') {
      out += "&lt;";
    } else if (c == '&') {
      out += "&amp;";
    } else {
      out += c;
    }
  }
  return out;
}

enum class Anchor { kStart, kMiddle, kEnd };

std::string label(double x, double y, Anchor anchor, const std::string& text,
                  const std::string& more = "") {
  constexpr const char* kNames[] = {"start", "middle", "end"};
  return fmt::format(R"(<text x="{:.1f}" y="{:.1f}" text-anchor="{}"{}>{}</text>)"
                     "\n",
                     x, y, kNames[static_cast<size_t>(anchor)], more, escaped(text));
}

std::string line(double x1, double y1, double x2, double y2, const std::string& style) {
  return fmt::format(R"(<line x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}" {}/>)"
                     "\n",
                     x1, y1, x2, y2, style);
}

std::string page(double width, double height, const std::string& title, const std::string& body) {
  return fmt::format(
      R"(<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {0:.0f} {1:.0f}" font-family="sans-serif" font-size="12" fill="#444">)"
      "\n"
      R"(<rect width="{0:.0f}" height="{1:.0f}" fill="#fff"/>)"
      "\n{2}{3}</svg>\n",
      width, height,
      label(width / 2, 20, Anchor::kMiddle, title, R"( font-size="14" font-weight="bold")"), body);
}

// A logarithmic axis that maps the range of the data to a range of pixels.
struct Axis {
  double low, high;  // decimal logarithms of the ends of the range
  double from, to;
  double at(double value) const {
    return from + (std::log10(value) - low) / (high - low) * (to - from);
  }
};

bool shown(const std::pair<double, double>& point) {
  return point.first > 0 && point.second > 0 && std::isfinite(point.first) &&
         std::isfinite(point.second);
}

Axis axis_over(const LineChart& chart, bool x, double from, double to) {
  double low = std::numeric_limits<double>::infinity(), high = -low;
  for (const Series& series : chart.series) {
    for (const auto& point : series.points) {
      if (!shown(point)) continue;
      const double value = std::log10(x ? point.first : point.second);
      low = std::min(low, value);
      high = std::max(high, value);
    }
  }
  if (low > high) return {0, 1, from, to};
  const double margin = std::max(0.04 * (high - low), 0.02);
  return {low - margin, high + margin, from, to};
}

// Returns the tick values 1, 2 and 5 times the powers of ten that the axis covers.
std::vector<double> ticks_of(const Axis& axis) {
  std::vector<double> ticks;
  for (int power = static_cast<int>(std::floor(axis.low)); power <= axis.high; ++power) {
    for (const double digit : {1.0, 2.0, 5.0}) {
      const double tick = digit * std::pow(10.0, power);
      if (std::log10(tick) >= axis.low && std::log10(tick) <= axis.high) ticks.push_back(tick);
    }
  }
  return ticks;
}

std::string series_of(const Series& series, const char* colour, const Axis& x, const Axis& y) {
  std::string path, marks;
  for (const auto& point : series.points) {
    if (!shown(point)) continue;
    const double px = x.at(point.first), py = y.at(point.second);
    path += fmt::format("{}{:.1f} {:.1f}", path.empty() ? "M" : " L", px, py);
    marks += fmt::format(R"(<circle cx="{:.1f}" cy="{:.1f}" r="3.2" fill="{}"/>)"
                         "\n",
                         px, py, colour);
  }
  return fmt::format(R"(<path d="{}" fill="none" stroke="{}" stroke-width="1.6"/>)"
                     "\n",
                     path, colour) +
         marks;
}

// Returns a colour from white (0) to dark blue (1).
std::string shade(double share) {
  const auto mix = [&](double light, double dark) {
    return static_cast<int>(std::lround(light + (dark - light) * std::clamp(share, 0.0, 1.0)));
  };
  return fmt::format("#{:02x}{:02x}{:02x}", mix(0xf3, 0x08), mix(0xf7, 0x45), mix(0xfb, 0x94));
}

std::string cell(double x, double y, double width, double height, double value, double share) {
  std::string text =
      fmt::format(R"(<rect x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}" fill="{}"/>)"
                  "\n",
                  x, y, width - 1, height - 1, shade(share));
  text += label(x + width / 2, y + height / 2 + 4, Anchor::kMiddle, fmt::format("{:.2f}", value),
                share > 0.55 ? R"( font-size="10" fill="#fff")" : R"( font-size="10")");
  return text;
}

}  // namespace

std::string draw(const LineChart& chart) {
  constexpr double kWidth = 760, kHeight = 420;
  const Axis x = axis_over(chart, true, kLeft, kWidth - kLegend);
  const Axis y = axis_over(chart, false, kHeight - kBottom, kTitle);
  std::string body;
  for (const double tick : ticks_of(x)) {
    body += line(x.at(tick), y.from, x.at(tick), y.to, R"(stroke="#ddd")");
    body += label(x.at(tick), y.from + 18, Anchor::kMiddle, fmt::format("{:g}", tick));
  }
  for (const double tick : ticks_of(y)) {
    body += line(x.from, y.at(tick), x.to, y.at(tick), R"(stroke="#ddd")");
    body += label(x.from - 6, y.at(tick) + 4, Anchor::kEnd, fmt::format("{:g}", tick));
  }
  body += label((x.from + x.to) / 2, kHeight - 12, Anchor::kMiddle, chart.x_label);
  body +=
      label(0, 0, Anchor::kMiddle, chart.y_label,
            fmt::format(" transform=\"translate(16 {:.1f}) rotate(-90)\"", (y.from + y.to) / 2));
  for (size_t i = 0; i < chart.series.size(); ++i) {
    const char* colour = kColours[i % std::size(kColours)];
    body += series_of(chart.series[i], colour, x, y);
    const double at = kTitle + 14 + 18 * static_cast<double>(i);
    body += line(x.to + 12, at - 4, x.to + 32, at - 4,
                 fmt::format(R"(stroke="{}" stroke-width="3")", colour));
    body += label(x.to + 38, at, Anchor::kStart, chart.series[i].name);
  }
  return page(kWidth, kHeight, chart.title, body);
}

std::string draw(const HeatMap& map) {
  constexpr double kCellWidth = 46, kCellHeight = 24;
  const double width = kLeft + kCellWidth * static_cast<double>(map.columns.size()) + 20;
  const double bottom = kTitle + kCellHeight * static_cast<double>(map.rows.size());
  std::string body;
  for (size_t row = 0; row < map.rows.size(); ++row) {
    const double y = kTitle + kCellHeight * static_cast<double>(row);
    body += label(kLeft - 6, y + kCellHeight / 2 + 4, Anchor::kEnd, map.rows[row]);
    for (size_t column = 0; column < map.columns.size(); ++column) {
      const double value = map.values[row][column];
      if (std::isnan(value)) continue;
      body += cell(kLeft + kCellWidth * static_cast<double>(column), y, kCellWidth, kCellHeight,
                   value, (value - map.low) / (map.high - map.low));
    }
  }
  for (size_t column = 0; column < map.columns.size(); ++column) {
    body += label(kLeft + kCellWidth * (static_cast<double>(column) + 0.5), bottom + 16,
                  Anchor::kMiddle, map.columns[column]);
  }
  body += label((kLeft + width) / 2, bottom + 38, Anchor::kMiddle, map.x_label);
  body +=
      label(0, 0, Anchor::kMiddle, map.y_label,
            fmt::format(" transform=\"translate(16 {:.1f}) rotate(-90)\"", (kTitle + bottom) / 2));
  constexpr double kTitleWidth = 560;  // the width that the longest title needs
  return page(std::max(width, kTitleWidth), bottom + kBottom, map.title, body);
}

std::string draw(const SchedulePicture& picture) {
  constexpr double kRow = 30, kHead = 44, kWidth = 560;
  const double first = kLeft + 96;
  const auto y_of = [](int64_t layer) { return kTitle + 24 + kRow * static_cast<double>(layer); };
  const auto x_of = [&](int64_t head) { return first + kHead * static_cast<double>(head); };
  std::string lines, marks;
  for (size_t i = 0; i < picture.layers.size(); ++i) {
    const auto& layer = picture.layers[i];
    const double y = y_of(static_cast<int64_t>(i));
    const bool reuse = layer.role == "reuse";
    const char* colour = reuse ? "#56b4e9" : layer.role == "anchor" ? "#d55e00" : "#7f7f7f";
    marks += label(kLeft - 6, y + 4, Anchor::kEnd, fmt::format("layer {}", i));
    marks += label(kLeft + 6, y + 4, Anchor::kStart, layer.role,
                   fmt::format(R"( fill="{}" font-weight="bold")", colour));
    for (size_t head = 0; head < layer.head_map.size(); ++head) {
      const double x = x_of(static_cast<int64_t>(head));
      marks += fmt::format(R"(<circle cx="{:.1f}" cy="{:.1f}" r="6" fill="{}"/>)"
                           "\n",
                           x, y, colour);
      if (!reuse) continue;
      lines += line(x, y, x_of(layer.head_map[head]), y_of(layer.anchor),
                    R"(stroke="#bbb" stroke-width="1.4")");
    }
    if (!reuse) continue;
    marks += label(x_of(static_cast<int64_t>(layer.head_map.size())) + 6, y + 4, Anchor::kStart,
                   fmt::format("from layer {}, similarity {:.3f}", layer.anchor, layer.similarity));
  }
  return page(kWidth, y_of(static_cast<int64_t>(picture.layers.size())) + 4, picture.title,
              lines + marks);
}

}  // namespace kascade::client
