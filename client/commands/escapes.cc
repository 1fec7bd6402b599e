#include "client/commands/escapes.h"

#include <fmt/format.h>

#include <charconv>
#include <cstdint>
#include <optional>

#include "client/commands/files.h"

namespace kascade::client {
namespace {

// The number that the first `digits` hexadecimal digits of `text` are.
std::optional<uint32_t> hexadecimal(std::string_view text, size_t digits) {
  uint32_t number = 0;
  if (text.size() < digits) return std::nullopt;
  const char* end = text.data() + digits;
  const auto [next, error] = std::from_chars(text.data(), end, number, 16);
  if (error != std::errc() || next != end) return std::nullopt;
  return number;
}

void append_utf8(uint32_t code, std::string& out) {
  const auto tail = [&](int shift) { out += static_cast<char>(0x80 | (code >> shift & 0x3F)); };
  if (code < 0x80) {
    out += static_cast<char>(code);
  } else if (code < 0x800) {
    out += static_cast<char>(0xC0 | code >> 6);
    tail(0);
  } else if (code < 0x10000) {
    out += static_cast<char>(0xE0 | code >> 12);
    tail(6);
    tail(0);
  } else {
    out += static_cast<char>(0xF0 | code >> 18);
    tail(12);
    tail(6);
    tail(0);
  }
}

// Hexadecimal digits that follow this letter; 0 for another letter.
size_t digits_after(char letter) {
  return letter == 'x' ? 2 : letter == 'u' ? 4 : letter == 'U' ? 8 : 0;
}

// Appends what the escape at the beginning of `rest`, which follows a backslash, stands for, and
// returns its length; 0 if it is none.
size_t append_escape(std::string_view rest, std::string& out) {
  constexpr std::string_view kLetters = "nrt0\\", kMeanings{"\n\r\t\0\\", 5};
  if (rest.empty()) return 0;
  if (const size_t place = kLetters.find(rest[0]); place != std::string_view::npos) {
    out += kMeanings[place];
    return 1;
  }
  const size_t digits = digits_after(rest[0]);
  const auto number = digits == 0 ? std::nullopt : hexadecimal(rest.substr(1), digits);
  if (!number || *number > 0x10FFFF) return 0;
  if (digits == 2) {
    out += static_cast<char>(*number);
  } else {
    append_utf8(*number, out);
  }
  return 1 + digits;
}

}  // namespace

absl::StatusOr<std::string> without_escapes(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '\\') {
      out += text[i];
      continue;
    }
    const size_t length = append_escape(text.substr(i + 1), out);
    if (length == 0) {
      return absl::InvalidArgumentError(
          fmt::format("{} is no escape; there are \\n \\r \\t \\0 \\\\ \\xHH \\uHHHH \\UHHHHHHHH",
                      text.substr(i, 2)));
    }
    i += length;
  }
  if (!is_utf8(out)) return absl::InvalidArgumentError(fmt::format("{} is not UTF-8", text));
  return out;
}

}  // namespace kascade::client
