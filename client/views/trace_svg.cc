#include "client/views/trace_svg.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <iterator>
#include <vector>

#include "client/commands/attention_flags.h"
#include "tools/terminal/print.h"

namespace kascade::client {
namespace {

constexpr double kPanel = 180, kGap = 28, kMargin = 20, kTop = 64, kLegend = 44;

// What a cell shows: ignored, or attended with at least this share of its row's mass. From light to
// dark, so that people with colour vision deficiency and prints in grey can tell them apart.
struct Level {
  double least;
  const char* colour;
  const char* label;
};
constexpr const char* kIgnored = "#e4e4e4";
constexpr std::array<Level, 6> kLevels{{{0, "#c6dbef", "below 0.1 %"},
                                        {0.001, "#9ecae1", "0.1 %"},
                                        {0.003, "#6baed6", "0.3 %"},
                                        {0.01, "#3182bd", "1 %"},
                                        {0.03, "#08519c", "3 %"},
                                        {0.1, "#08204d", "10 %"}}};

std::string escaped(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == '<') {
      out += "&lt;";
    } else if (c == '&') {
      out += "&amp;";
    } else if (static_cast<unsigned char>(c) >= ' ') {
      out += c;
    }
  }
  return out;
}

std::string label(double x, double y, const std::string& text, const char* more = "") {
  return fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\"{}>{}</text>\n", x, y, more, escaped(text));
}

// 0: ignored, else the number of the level and 1.
size_t shade_of(const v1::TraceMapRow& row, int cell) {
  if (row.attended_keys(cell) == 0) return 0;
  size_t level = kLevels.size();
  while (level > 1 && row.attended_mass(cell) < kLevels[level - 1].least) --level;
  return level;
}

// One path for each shade: rectangles one cell high, over neighbours of the same shade.
std::string cells_of(const v1::TraceMap& map) {
  std::array<std::string, kLevels.size() + 1> paths;
  for (int y = 0; y < map.rows_size(); ++y) {
    const auto& row = map.rows(y);
    for (int x = 0; x < row.mass_size();) {
      const size_t shade = shade_of(row, x);
      int end = x + 1;
      while (end < row.mass_size() && shade_of(row, end) == shade) ++end;
      fmt::format_to(std::back_inserter(paths[shade]), "M{} {}h{}v1h-{}z", x, y, end - x, end - x);
      x = end;
    }
  }
  std::string out;
  for (size_t shade = 0; shade < paths.size(); ++shade) {
    if (paths[shade].empty()) continue;
    const char* colour = shade == 0 ? kIgnored : kLevels[shade - 1].colour;
    out += fmt::format("<path fill=\"{}\" d=\"{}\"/>\n", colour, paths[shade]);
  }
  return out;
}

// The share of the mass that the rows of the map attended to, as their mean.
double mean_recall(const v1::TraceMap& map) {
  double sum = 0;
  for (const auto& row : map.rows()) {
    for (const float mass : row.attended_mass()) sum += mass;
  }
  return map.rows_size() > 0 ? sum / map.rows_size() : 0;
}

std::string panel(const v1::TraceMap& map, const std::string& title, double x, double y) {
  const double scale = kPanel / std::max(map.rows_size(), 1);
  return label(x, y - 6, title) +
         fmt::format(
             "<g transform=\"translate({:.1f} {:.1f}) scale({:.5f})\" "
             "shape-rendering=\"crispEdges\">\n<title>{}</title>\n{}</g>\n",
             x, y, scale, escaped(title), cells_of(map));
}

std::string legend(double y) {
  double x = kMargin;
  std::string out;
  const auto entry = [&](const char* colour, const std::string& text) {
    out += fmt::format("<rect x=\"{:.1f}\" y=\"{:.1f}\" width=\"12\" height=\"12\" fill=\"{}\"/>\n",
                       x, y, colour);
    out += label(x + 16, y + 10, text);
    x += 30 + 6.2 * static_cast<double>(text.size());
  };
  entry(kIgnored, "ignored");
  for (const Level& level : kLevels) {
    entry(level.colour, level.least > 0 ? fmt::format("from {}", level.label) : level.label);
  }
  return out + label(kMargin, y + 28,
                     "Rows: query tiles. Columns: key tiles. Colour: "
                     "share of the row's attention mass on the tile's attended keys.");
}

std::string title_of(const TraceRun& run, const v1::TraceMap& map) {
  const auto layer = std::ranges::find_if(
      run.layers, [&](const auto& traced) { return traced.layer() == map.layer(); });
  const std::string kind = layer == run.layers.end() ? "" : " " + name_of(layer->kind());
  return fmt::format("L{}{}, head {}: {}", map.layer(), kind, map.kv_head(),
                     percent(mean_recall(map), 1));
}

}  // namespace

std::string trace_svg(const TraceRun& run) {
  const auto& started = run.started;
  const size_t columns = std::max(started.kv_heads_size(), 1);
  const size_t lines = (run.maps.size() + columns - 1) / columns;
  const double width =
      std::max(2 * kMargin + static_cast<double>(columns) * (kPanel + kGap), 760.0);
  const double height = kTop + static_cast<double>(lines) * (kPanel + kGap) + kLegend;
  std::string out = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {0:.0f} {1:.0f}\" width=\"{0:.0f}\" "
      "height=\"{1:.0f}\" font-family=\"sans-serif\" font-size=\"11\" fill=\"#444\">\n"
      "<rect width=\"{0:.0f}\" height=\"{1:.0f}\" fill=\"#fff\"/>\n",
      width, height);
  out += label(kMargin, 24,
               fmt::format("Keys attended to, {} in tiles of {}",
                           counted(started.last_position() + 1, "token"), started.map_tile()),
               " font-size=\"14\" font-weight=\"bold\"");
  out += label(kMargin, 42,
               text_of(started.attention()) + "; beside each head: the mass that its keys hold");
  for (size_t i = 0; i < run.maps.size(); ++i) {
    const size_t line = i / columns, column = i % columns;
    const double x = kMargin + static_cast<double>(column) * (kPanel + kGap);
    const double y = kTop + 14 + static_cast<double>(line) * (kPanel + kGap);
    out += panel(run.maps[i], title_of(run, run.maps[i]), x, y);
  }
  return out + legend(height - kLegend + 10) + "</svg>\n";
}

}  // namespace kascade::client
