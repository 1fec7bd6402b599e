#include "client/eval/data_table.h"

#include <cstdlib>
#include <utility>

namespace kascade::client {
namespace {

std::string quoted(const std::string& cell) {
  if (cell.find_first_of(",\"\n\r") == std::string::npos) return cell;
  std::string text = "\"";
  for (const char c : cell) {
    if (c == '"') text += '"';
    text += c;
  }
  return text + '"';
}

// Escapes the vertical bar, which would otherwise end the cell.
std::string escaped(const std::string& cell) {
  std::string text;
  for (const char c : cell) {
    if (c == '|') text += '\\';
    text += c;
  }
  return text;
}

}  // namespace

void DataTable::add(std::vector<std::string> cells) {
  if (cells.size() != columns_.size()) std::abort();
  rows_.push_back(std::move(cells));
}

std::string DataTable::csv() const {
  std::string text;
  for (size_t i = 0; i < columns_.size(); ++i) {
    text += (i > 0 ? "," : "") + quoted(columns_[i].name);
  }
  text += '\n';
  for (const auto& row : rows_) {
    for (size_t i = 0; i < row.size(); ++i) text += (i > 0 ? "," : "") + quoted(row[i]);
    text += '\n';
  }
  return text;
}

std::string DataTable::markdown(std::string_view group) const {
  std::string titles = "|", rule = "|", text;
  for (const Column& column : columns_) {
    if (column.title.empty()) continue;
    titles += " " + column.title + " |";
    rule += column.text ? "---|" : "--:|";
  }
  text = titles + "\n" + rule + "\n";
  for (const auto& row : rows_) {
    if (!group.empty() && row.front() != group) continue;
    text += "|";
    for (size_t i = 0; i < row.size(); ++i) {
      if (!columns_[i].title.empty()) text += " " + escaped(row[i]) + " |";
    }
    text += "\n";
  }
  return text;
}

}  // namespace kascade::client
