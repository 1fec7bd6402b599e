// Texts in and results out: files are checked before any call is made.
#ifndef KASCADE_CLIENT_COMMANDS_FILES_H_
#define KASCADE_CLIENT_COMMANDS_FILES_H_

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace kascade::client {

// A text of UTF-8, not empty; "-" is standard input.
absl::StatusOr<std::string> read_text(const std::string& file);
absl::StatusOr<std::vector<std::string>> read_texts(const std::vector<std::string>& files);

// The argument itself, or for "-" standard input less one final newline, which a shell adds to what
// people mean. UTF-8; may be empty.
absl::StatusOr<std::string> text_argument(const std::string& argument);

bool is_utf8(std::string_view text);

// Where to cut UTF-8 text at `at` or before: behind a line that ends in the half before it, else in
// front of a character.
size_t place_to_cut(std::string_view text, size_t at);

// A result file that appears whole or not at all. Opened before the work that fills it, so that a
// place where nothing can be written is told first.
class ResultFile {
 public:
  // An empty path: commit does nothing.
  static absl::StatusOr<ResultFile> open(const std::string& path);
  ResultFile(ResultFile&& other) noexcept;
  ~ResultFile();
  absl::Status commit(std::string_view content);

 private:
  explicit ResultFile(std::filesystem::path path);
  std::filesystem::path path_;       // empty: nothing to do
  std::filesystem::path temporary_;  // beside it
};

}  // namespace kascade::client

#endif  // KASCADE_CLIENT_COMMANDS_FILES_H_
