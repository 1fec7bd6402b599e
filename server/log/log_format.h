// How a record of the log is written: one line, whatever it quotes.
#ifndef KASCADE_SERVER_LOG_LOG_FORMAT_H_
#define KASCADE_SERVER_LOG_LOG_FORMAT_H_

#include <memory>
#include <string>
#include <string_view>

#include "spdlog/formatter.h"

namespace kascade::logging {

// Control characters (also those of Unicode's second block, U+0080 to U+009F, and the line
// separators U+2028 and U+2029) are written as escapes such as \n and \x1b. Everything else stays.
std::string escaped(std::string_view text);

// "2026-11-30T18:58:22.123+00:00 info MESSAGE name=value …": local time, level, and the escaped
// message. A value with anything but letters, digits and -_.:/+,%[]@ in it stands in quotes.
std::unique_ptr<spdlog::formatter> text_formatter();

// One JSON object: "time" (RFC 3339, UTC), "level" (debug, info, warning, error), "message", and
// the fields of the record. All but printable ASCII is escaped.
std::unique_ptr<spdlog::formatter> json_formatter();

// The formatter of `--log-format`: json_formatter() for "json", else text_formatter(). One of both
// formats all that the server logs, so that nothing that a client sent reaches a terminal or a log
// reader raw.
std::unique_ptr<spdlog::formatter> formatter_named(std::string_view format);

}  // namespace kascade::logging

#endif  // KASCADE_SERVER_LOG_LOG_FORMAT_H_
