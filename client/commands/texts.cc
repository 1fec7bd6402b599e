#include "client/commands/texts.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <charconv>
#include <filesystem>
#include <string_view>
#include <system_error>
#include <utility>

#include "client/commands/files.h"
#include "client/commands/number_checks.h"

namespace kascade::client {
namespace {

// Adds the lines of a file that have more than white space. A line ends before "\n" or "\r\n".
absl::Status add_lines(const std::string& file, std::string_view text,
                       std::vector<NamedText>& texts) {
  const size_t before = texts.size();
  int64_t number = 0;
  while (!text.empty()) {
    ++number;
    const size_t end = text.find('\n');
    std::string_view line = text.substr(0, end);
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (line.find_first_not_of(" \t\r\v\f") == std::string_view::npos) continue;
    texts.push_back({.text = std::string(line), .file = file, .line = number});
  }
  if (texts.size() > before) return absl::OkStatus();
  return absl::InvalidArgumentError(fmt::format(
      "{} has no line with more than white space (--lines)", NamedText{.file = file}.name()));
}

struct KindAndFile {
  std::string kind{};
  std::string file{};
};

// The kind of a file that was given without one: its name, as far as the server takes it.
std::string kind_of_file(const std::string& file) {
  constexpr size_t kMostBytes = 64;
  if (file == "-") return "standard input";
  std::string name = std::filesystem::path(file).filename().string();
  while (name.size() > kMostBytes || !is_utf8(name)) name.pop_back();
  return name.empty() ? "text" : name;
}

KindAndFile kind_and_file(const std::string& argument) {
  std::error_code ignored;
  const size_t equals = argument.find('=');
  const bool names_kind = equals != std::string::npos && equals > 0 &&
                          argument.find('/') > equals &&
                          !std::filesystem::exists(argument, ignored);
  if (!names_kind) return {kind_of_file(argument), argument};
  return {argument.substr(0, equals), argument.substr(equals + 1)};
}

}  // namespace

std::string NamedText::name() const {
  const std::string shown = file == "-" ? "standard input" : file;
  return line == 0 ? shown : fmt::format("{}:{}", shown, line);
}

void add_text_flags(CLI::App& command, TextFlags& flags) {
  command.add_flag("--lines", flags.lines,
                   "Each line of a FILE is a text of its own; empty lines are left out");
  command
      .add_option("--max-tokens-per-text", flags.max_tokens_per_text,
                  "Take the first N tokens of each text only, 1 to 1048576 [whole texts]")
      ->type_name("N")
      ->check(whole_number(1, 1048576));
}

absl::StatusOr<std::vector<NamedText>> read_named_texts(const std::vector<std::string>& files,
                                                        const TextFlags& flags) {
  std::vector<NamedText> texts;
  for (const std::string& file : files) {
    auto text = read_text(file);
    if (!text.ok()) return text.status();
    if (!flags.lines) {
      texts.push_back({.text = *std::move(text), .file = file});
      continue;
    }
    if (absl::Status status = add_lines(file, *text, texts); !status.ok()) return status;
  }
  return texts;
}

absl::StatusOr<std::vector<NamedText>> read_texts_of_kinds(
    const std::vector<std::string>& arguments, const TextFlags& flags) {
  std::vector<NamedText> all;
  for (const std::string& argument : arguments) {
    const KindAndFile named = kind_and_file(argument);
    auto texts = read_named_texts({named.file}, flags);
    if (!texts.ok()) return texts.status();
    for (NamedText& text : *texts) {
      text.kind = named.kind;
      all.push_back(std::move(text));
    }
  }
  return all;
}

absl::Status with_text_names(const absl::Status& status, const std::string& field,
                             std::span<const NamedText> texts) {
  const std::string message(status.message());
  if (!message.starts_with(field + "[")) return status;
  const char* begin = message.data() + field.size() + 1;
  const char* end = message.data() + message.size();
  size_t index = 0;
  const auto [after, error] = std::from_chars(begin, end, index);
  const size_t colon = message.find(": ");
  if (error != std::errc() || after == end || *after != ']' || index >= texts.size() ||
      colon == std::string::npos) {
    return status;
  }
  return {status.code(), texts[index].name() + message.substr(colon)};
}

}  // namespace kascade::client
