#include "server/log/record.h"

#include "nlohmann/json.hpp"
#include "spdlog/spdlog.h"

namespace kascade::logging {
namespace {

// Records with fields carry this address as the name of their source file, which no client can
// forge. Their text is the message, a separator, and the fields in JSON, which escapes separators.
constexpr char kHasFields[] = "fields";
constexpr char kSeparator = '\x1e';

}  // namespace

void write(spdlog::level::level_enum level, std::string_view message, const Fields& fields) {
  if (!spdlog::should_log(level)) return;
  nlohmann::ordered_json values = nlohmann::ordered_json::object();
  for (const Field& field : fields) {
    std::visit([&](const auto& value) { values[field.name] = value; }, field.value);
  }
  spdlog::log(
      spdlog::source_loc{kHasFields, 0, kHasFields}, level, "{}{}{}", message, kSeparator,
      values.dump(-1, ' ', /*ensure_ascii=*/false, nlohmann::json::error_handler_t::replace));
}

RecordParts parts_of(const spdlog::details::log_msg& record) {
  const std::string_view text(record.payload.data(), record.payload.size());
  if (record.source.filename != kHasFields) return {.message = text};
  const size_t end = text.rfind(kSeparator);
  return {.message = text.substr(0, end), .fields = text.substr(end + 1)};
}

}  // namespace kascade::logging
