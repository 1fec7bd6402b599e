// How a line of the log is written.
#ifndef KASCADE_SERVER_LOG_FORMAT_H_
#define KASCADE_SERVER_LOG_FORMAT_H_

#include <memory>
#include <string>
#include <string_view>

#include "spdlog/formatter.h"

namespace kascade::server {

// One line for one message, whatever it quotes: control characters (also those of Unicode's second
// block, U+0080 to U+009F, and the line separators U+2028 and U+2029) are written as escapes such
// as \n and \x1b. Everything else stays.
std::string escaped(std::string_view text);

// Time, level and the escaped message. The one formatter of the server, so that nothing that a
// client sent reaches a terminal or a log reader raw.
std::unique_ptr<spdlog::formatter> log_formatter();

}  // namespace kascade::server

#endif  // KASCADE_SERVER_LOG_FORMAT_H_
