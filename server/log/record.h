// Records of the log that have fields beside their message.
#ifndef KASCADE_SERVER_LOG_RECORD_H_
#define KASCADE_SERVER_LOG_RECORD_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "spdlog/common.h"
#include "spdlog/details/log_msg.h"

namespace kascade::logging {

// Names are those of JSON keys; "time", "level" and "message" are taken.
struct Field {
  std::string name{};
  std::variant<std::string, int64_t, double> value{};
};
using Fields = std::vector<Field>;

// Writes a record through the default logger of spdlog. Both formats of log_format.h write the
// fields behind the message. Thread-safe.
void write(spdlog::level::level_enum level, std::string_view message, const Fields& fields);

// For formatters: the parts of a record, however it was written. A record that did not come from
// write() has no fields, whatever its text is.
struct RecordParts {
  std::string_view message{};
  std::string_view fields{};  // a JSON object, or empty
};
RecordParts parts_of(const spdlog::details::log_msg& record);

}  // namespace kascade::logging

#endif  // KASCADE_SERVER_LOG_RECORD_H_
