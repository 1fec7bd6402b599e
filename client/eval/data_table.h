// Figures in rows and columns, written as CSV and as Markdown.
#ifndef KASCADE_CLIENT_EVAL_DATA_TABLE_H_
#define KASCADE_CLIENT_EVAL_DATA_TABLE_H_

#include <string>
#include <string_view>
#include <vector>

namespace kascade::client {

class DataTable {
 public:
  struct Column {
    std::string name{};   // in CSV
    std::string title{};  // in Markdown; a column without one is left out there
    bool text = false;    // aligned left
  };
  explicit DataTable(std::vector<Column> columns) : columns_(std::move(columns)) {}

  // As many cells as columns; an empty one is a figure that was not measured.
  void add(std::vector<std::string> cells);

  // RFC 4180, lines end with a newline.
  std::string csv() const;
  // The rows whose first cell is `group`; all if it is empty.
  std::string markdown(std::string_view group = {}) const;

 private:
  std::vector<Column> columns_;
  std::vector<std::vector<std::string>> rows_{};
};

}  // namespace kascade::client

#endif  // KASCADE_CLIENT_EVAL_DATA_TABLE_H_
