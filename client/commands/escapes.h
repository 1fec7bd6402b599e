// Escapes in text that is typed on a command line.
#ifndef KASCADE_CLIENT_COMMANDS_ESCAPES_H_
#define KASCADE_CLIENT_COMMANDS_ESCAPES_H_

#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace kascade::client {

// Replaces \n, \r, \t, \0, \\, \xHH (a byte; several make a character: \xc3\xa9), \uHHHH and
// \UHHHHHHHH (a code point) by what they stand for. INVALID_ARGUMENT for another escape, and where
// the result is not UTF-8.
absl::StatusOr<std::string> without_escapes(std::string_view text);

}  // namespace kascade::client

#endif  // KASCADE_CLIENT_COMMANDS_ESCAPES_H_
