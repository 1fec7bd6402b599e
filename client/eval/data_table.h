// A table of measurements that can be written as CSV and as Markdown.
#ifndef KASCADE_CLIENT_EVAL_DATA_TABLE_H_
#define KASCADE_CLIENT_EVAL_DATA_TABLE_H_

#include <string>
#include <string_view>
#include <vector>

namespace kascade::client {

class DataTable {
 public:
  struct Column {
    std::string name{};  // the column's name in CSV
    // the column's title in Markdown; a column without a title is omitted there
    std::string title{};
    bool text = false;  // left-aligned if true
  };
  explicit DataTable(std::vector<Column> columns) : columns_(std::move(columns)) {}

  // Adds a row with one cell per column. An empty cell is a value that was not measured.
  void add(std::vector<std::string> cells);

  // Returns the table in the format of RFC 4180; lines end with a newline.
  std::string csv() const;
  // Returns the rows whose first cell is `group`, or all rows if `group` is empty.
  std::string markdown(std::string_view group = {}) const;

 private:
  std::vector<Column> columns_;
  std::vector<std::vector<std::string>> rows_{};
};

}  // namespace kascade::client

#endif  // KASCADE_CLIENT_EVAL_DATA_TABLE_H_
