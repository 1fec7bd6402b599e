#include "server/log_format.h"

#include "spdlog/fmt/fmt.h"
#include "spdlog/pattern_formatter.h"

namespace kascade::server {
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

class EscapedMessage final : public spdlog::custom_flag_formatter {
 public:
  void format(const spdlog::details::log_msg& message, const std::tm&,
              spdlog::memory_buf_t& out) override {
    const std::string text = escaped({message.payload.data(), message.payload.size()});
    out.append(text.data(), text.data() + text.size());
  }
  std::unique_ptr<custom_flag_formatter> clone() const override {
    return std::make_unique<EscapedMessage>();
  }
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

std::unique_ptr<spdlog::formatter> log_formatter() {
  auto formatter = std::make_unique<spdlog::pattern_formatter>();
  formatter->add_flag<EscapedMessage>(kMessageFlag)
      .set_pattern(fmt::format("%Y-%m-%dT%H:%M:%S.%e%z %l %{}", kMessageFlag));
  return formatter;
}

}  // namespace kascade::server
