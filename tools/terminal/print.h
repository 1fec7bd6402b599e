// Formats values for users: numbers with units, aligned tables, and colour on terminals only.
#ifndef KASCADE_TOOLS_TERMINAL_PRINT_H_
#define KASCADE_TOOLS_TERMINAL_PRINT_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace kascade::client {

std::string with_commas(int64_t value);  // 12,345
// What rounds to zero has no minus sign, in these four: there is no "-0.00 %".
std::string fixed(double value, int decimals);                 // -1.5 → "-1.50"
std::string signed_fixed(double value, int decimals);          // 1.5 → "+1.50"
std::string percent(double ratio, int decimals = 2);           // 0.9663 → "96.63 %"
std::string signed_percent(double percent, int decimals = 2);  // 1.5 → "+1.50 %"
std::string bytes(double count);                               // 1536 → "1.50 KiB"
std::string duration(double seconds);                          // 75 → "1:15"
std::string counted(int64_t count, std::string_view noun);     // "1 window", "2 windows"

enum class Colour { kGreen, kYellow, kRed, kBold };
// Colours `text` if standard output is a terminal and NO_COLOR is not set; otherwise returns it
// unchanged.
std::string paint(Colour colour, std::string_view text);

// A table whose columns are aligned and two spaces apart.
class Table {
 public:
  enum class Align { kLeft, kRight };
  struct Column {
    std::string title{};
    Align align = Align::kRight;
  };
  explicit Table(std::vector<Column> columns) : columns_(std::move(columns)) {}
  void add(std::vector<std::string> cells) { rows_.push_back(std::move(cells)); }
  // Returns the table, with a line of titles if any column has a title. Every line ends with a
  // newline.
  std::string text() const;

 private:
  std::string line(const std::vector<std::string>& cells, const std::vector<size_t>& widths) const;
  std::vector<Column> columns_;
  std::vector<std::vector<std::string>> rows_;
};

// A list of lines of the form "name  value".
class Facts {
 public:
  Facts();
  void add(std::string name, std::string value);
  std::string text() const { return table_.text(); }

 private:
  Table table_;
};

}  // namespace kascade::client

#endif  // KASCADE_TOOLS_TERMINAL_PRINT_H_
