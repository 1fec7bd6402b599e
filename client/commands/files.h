// Reads the commands' input texts and writes their result files. Both are checked before any call
// to the server.
#ifndef KASCADE_CLIENT_COMMANDS_FILES_H_
#define KASCADE_CLIENT_COMMANDS_FILES_H_

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace kascade::client {

// Reads a text, which must be UTF-8 and not empty; "-" is standard input.
absl::StatusOr<std::string> read_text(const std::string& file);
absl::StatusOr<std::vector<std::string>> read_texts(const std::vector<std::string>& files);

// Returns the argument itself. For "-" it returns standard input without one final newline, because
// shells add one that users do not mean. The text must be UTF-8 and may be empty.
absl::StatusOr<std::string> text_argument(const std::string& argument);

bool is_utf8(std::string_view text);

// Returns a position at or before `at` where UTF-8 text can be split: after the last line that ends
// in the second half of text[0, at), or else at the start of a character.
size_t place_to_cut(std::string_view text, size_t at);

// A result file that appears complete or not at all. It is opened before the work that produces its
// content, so that an unwritable path is reported first.
class ResultFile {
 public:
  // With an empty path, commit() does nothing.
  static absl::StatusOr<ResultFile> open(const std::string& path);
  ResultFile(ResultFile&& other) noexcept;
  ~ResultFile();
  absl::Status commit(std::string_view content);

 private:
  explicit ResultFile(std::filesystem::path path);
  std::filesystem::path path_;       // empty if no file is wanted
  std::filesystem::path temporary_;  // the temporary file, in the same folder
};

}  // namespace kascade::client

#endif  // KASCADE_CLIENT_COMMANDS_FILES_H_
