#include "tools/terminal/print.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>
#include <utility>

namespace kascade::client {
namespace {

// Width on the screen: the number of characters, because no wide characters are printed.
size_t width_of(std::string_view text) {
  return std::count_if(text.begin(), text.end(),
                       [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; });
}

}  // namespace

std::string with_commas(int64_t value) {
  const std::string digits = std::to_string(std::abs(value));
  std::string out;
  for (size_t i = 0; i < digits.size(); ++i) {
    if (i > 0 && (digits.size() - i) % 3 == 0) out += ',';
    out += digits[i];
  }
  return (value < 0 ? "-" : "") + out;
}

std::string fixed(double value, int decimals) {
  std::string text = fmt::format("{:.{}f}", value, decimals);
  const bool zero = text.find_first_not_of("-0.") == std::string::npos;
  return zero && text.starts_with('-') ? text.substr(1) : text;
}

std::string signed_fixed(double value, int decimals) {
  std::string text = fixed(value, decimals);
  return text.starts_with('-') ? text : "+" + text;
}

std::string percent(double ratio, int decimals) { return fixed(ratio * 100, decimals) + " %"; }

std::string signed_percent(double percent, int decimals) {
  return signed_fixed(percent, decimals) + " %";
}

std::string bytes(double count) {
  constexpr std::array kUnits = {"B", "KiB", "MiB", "GiB", "TiB"};
  size_t unit = 0;
  while (count >= 1024 && unit + 1 < kUnits.size()) {
    count /= 1024;
    ++unit;
  }
  return fmt::format("{:.{}f} {}", count, unit == 0 ? 0 : 2, kUnits[unit]);
}

std::string duration(double seconds) {
  const auto whole = static_cast<int64_t>(std::llround(std::max(0.0, seconds)));
  const int64_t hours = whole / 3600;
  const int64_t minutes = whole / 60 % 60;
  if (hours > 0) return fmt::format("{}:{:02}:{:02}", hours, minutes, whole % 60);
  return fmt::format("{}:{:02}", minutes, whole % 60);
}

std::string counted(int64_t count, std::string_view noun) {
  return fmt::format("{} {}{}", with_commas(count), noun, count == 1 ? "" : "s");
}

std::string paint(Colour colour, std::string_view text) {
  static const bool kPlain = isatty(STDOUT_FILENO) == 0 || std::getenv("NO_COLOR") != nullptr;
  if (kPlain) return std::string(text);
  constexpr std::array kCodes = {"32", "33", "31", "1"};
  return fmt::format("\033[{}m{}\033[0m", kCodes[static_cast<size_t>(colour)], text);
}

std::string Table::line(const std::vector<std::string>& cells,
                        const std::vector<size_t>& widths) const {
  std::string out;
  for (size_t i = 0; i < cells.size(); ++i) {
    const std::string padding(widths[i] - width_of(cells[i]), ' ');
    if (i > 0) out += "  ";
    out += columns_[i].align == Align::kRight ? padding + cells[i] : cells[i] + padding;
  }
  out.erase(out.find_last_not_of(' ') + 1);
  return out + '\n';
}

std::string Table::text() const {
  std::vector<std::string> titles;
  std::vector<size_t> widths;
  for (const Column& column : columns_) {
    titles.push_back(column.title);
    widths.push_back(width_of(column.title));
  }
  for (const auto& row : rows_) {
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], width_of(row[i]));
  }
  const bool titled =
      std::any_of(titles.begin(), titles.end(), [](const auto& title) { return !title.empty(); });
  std::string out = titled ? line(titles, widths) : "";
  for (const auto& row : rows_) out += line(row, widths);
  return out;
}

Facts::Facts() : table_({{.align = Table::Align::kLeft}, {.align = Table::Align::kLeft}}) {}

void Facts::add(std::string name, std::string value) {
  table_.add({std::move(name), std::move(value)});
}

}  // namespace kascade::client
