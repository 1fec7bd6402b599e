#include "server/log/log_format.h"

#include <algorithm>
#include <cctype>

#include "absl/time/time.h"
#include "nlohmann/json.hpp"
#include "server/log/record.h"
#include "spdlog/fmt/fmt.h"
#include "spdlog/pattern_formatter.h"

namespace kascade::logging {
namespace {

constexpr char kMessageFlag = '*';

// Bytes of the control character that `text` begins with; 0 if it begins with another one.
size_t control_bytes(std::string_view text) {
  const auto first = static_cast<unsigned char>(text.front());
  if (first < 0x20 || first == 0x7f) return 1;
  const bool second_block = first == 0xc2 && text.size() > 1 &&
                            static_cast<unsigned char>(text[1]) >= 0x80 &&
                            static_cast<unsigned char>(text[1]) <= 0x9f;
  if (second_block) return 2;
  const bool separator = text.starts_with("\xe2\x80\xa8") || text.starts_with("\xe2\x80\xa9");
  return separator ? 3 : 0;
}

bool is_plain(std::string_view value) {
  return !value.empty() && std::ranges::all_of(value, [](unsigned char c) {
    return std::isalnum(c) != 0 ||
           std::string_view("-_.:/+,%[]@").find(static_cast<char>(c)) != std::string_view::npos;
  });
}

std::string quoted_if_needed(std::string_view value) {
  if (is_plain(value)) return std::string(value);
  std::string out = "\"";
  for (const char c : value) {
    if (c == '"' || c == '\\') out += '\\';
    out += c;
  }
  return escaped(out + '"');
}

std::string text_of(const nlohmann::ordered_json& value) {
  if (value.is_string()) return quoted_if_needed(value.get_ref<const std::string&>());
  return value.is_number_float() ? fmt::format("{:.6g}", value.get<double>()) : value.dump();
}

// Empty for a record without fields.
nlohmann::ordered_json fields_of(const RecordParts& parts) {
  if (parts.fields.empty()) return nlohmann::ordered_json::object();
  return nlohmann::ordered_json::parse(parts.fields);
}

class EscapedMessage final : public spdlog::custom_flag_formatter {
 public:
  void format(const spdlog::details::log_msg& message, const std::tm&,
              spdlog::memory_buf_t& out) override {
    const RecordParts parts = parts_of(message);
    std::string text = escaped(parts.message);
    const nlohmann::ordered_json fields = fields_of(parts);
    for (const auto& [name, value] : fields.items()) {
      text += fmt::format(" {}={}", name, text_of(value));
    }
    out.append(text.data(), text.data() + text.size());
  }
  std::unique_ptr<custom_flag_formatter> clone() const override {
    return std::make_unique<EscapedMessage>();
  }
};

class JsonLine final : public spdlog::formatter {
 public:
  void format(const spdlog::details::log_msg& message, spdlog::memory_buf_t& out) override {
    const auto level = spdlog::level::to_string_view(message.level);
    const RecordParts parts = parts_of(message);
    nlohmann::ordered_json line = {
        {"time", absl::FormatTime("%Y-%m-%dT%H:%M:%E3SZ", absl::FromChrono(message.time),
                                  absl::UTCTimeZone())},
        {"level", std::string(level.data(), level.size())},
        {"message", std::string(parts.message)}};
    line.update(fields_of(parts));
    const std::string text =
        line.dump(-1, ' ', /*ensure_ascii=*/true, nlohmann::json::error_handler_t::replace) + '\n';
    out.append(text.data(), text.data() + text.size());
  }
  std::unique_ptr<spdlog::formatter> clone() const override { return std::make_unique<JsonLine>(); }
};

}  // namespace

std::string escaped(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  while (!text.empty()) {
    const size_t bytes = control_bytes(text);
    if (bytes == 0) {
      out += text.front();
    } else if (text.front() == '\n') {
      out += "\\n";
    } else {
      for (const char c : text.substr(0, bytes)) {
        out += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
      }
    }
    text.remove_prefix(bytes == 0 ? 1 : bytes);
  }
  return out;
}

std::unique_ptr<spdlog::formatter> text_formatter() {
  auto formatter = std::make_unique<spdlog::pattern_formatter>();
  formatter->add_flag<EscapedMessage>(kMessageFlag)
      .set_pattern(fmt::format("%Y-%m-%dT%H:%M:%S.%e%z %l %{}", kMessageFlag));
  return formatter;
}

std::unique_ptr<spdlog::formatter> json_formatter() { return std::make_unique<JsonLine>(); }

std::unique_ptr<spdlog::formatter> formatter_named(std::string_view format) {
  return format == "json" ? json_formatter() : text_formatter();
}

}  // namespace kascade::logging
