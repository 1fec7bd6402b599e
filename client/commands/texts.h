// The texts of calibrate and score: whole files, or each line of a file.
#ifndef KASCADE_CLIENT_COMMANDS_TEXTS_H_
#define KASCADE_CLIENT_COMMANDS_TEXTS_H_

#include <CLI/App.hpp>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace kascade::client {

// The values of the options as typed.
struct TextFlags {
  bool lines = false;  // each line with more than white space is a text of its own
  std::optional<int32_t> max_tokens_per_text{};
};

// Adds --lines and --max-tokens-per-text to `command`. `flags` must outlive it.
void add_text_flags(CLI::App& command, TextFlags& flags);

struct NamedText {
  std::string text{};
  std::string file{};  // as typed
  int64_t line = 0;    // from 1; 0: the whole file
  std::string kind{};  // read_texts_of_kinds() sets it

  std::string name() const;  // "a.txt", or "a.txt:12" for a line
};

// Reads files, which must be UTF-8 and not empty; "-" is standard input. INVALID_ARGUMENT: --lines,
// and a file has no line with more than white space.
absl::StatusOr<std::vector<NamedText>> read_named_texts(const std::vector<std::string>& files,
                                                        const TextFlags& flags);

// The same of arguments that may name the kind of a file's text, KIND=FILE. Without it the kind is
// the file's name. An argument that has a "/" before its "=", or that is the name of a file as a
// whole, is a FILE.
absl::StatusOr<std::vector<NamedText>> read_texts_of_kinds(
    const std::vector<std::string>& arguments, const TextFlags& flags);

// Replaces "field[3]" and what is below it at the begin of a server's message by the name of the
// text that the user knows, so that no user has to know the names of the API.
absl::Status with_text_names(const absl::Status& status, const std::string& field,
                             std::span<const NamedText> texts);

}  // namespace kascade::client

#endif  // KASCADE_CLIENT_COMMANDS_TEXTS_H_
