#include "engine/base/refusal.h"

#include <algorithm>
#include <cctype>
#include <charconv>
#include <string_view>

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"

namespace kascade {
namespace {

constexpr char kPayload[] = "kascade/refusal";

// A payload is a sequence of strings, each written as "LENGTH:BYTES", because details may hold any
// bytes.
void append(const std::string& text, std::string& out) {
  absl::StrAppend(&out, text.size(), ":", text);
}

std::optional<std::string> take(std::string_view& rest) {
  size_t size = 0;
  const auto [end, error] = std::from_chars(rest.data(), rest.data() + rest.size(), size);
  if (error != std::errc()) return std::nullopt;
  rest.remove_prefix(static_cast<size_t>(end - rest.data()));
  if (rest.size() < size + 1 || rest.front() != ':') return std::nullopt;
  std::string text(rest.substr(1, size));
  rest.remove_prefix(size + 1);
  return text;
}

template <typename Number>
absl::Status check(const std::string& field, Number value, Number low, Number high) {
  if (value >= low && value <= high) return absl::OkStatus();
  return invalid_field(field, absl::StrCat("must be in [", low, ", ", high, "], got ", value));
}

}  // namespace

absl::Status refuse(absl::StatusCode code, const std::string& message, const Refusal& refusal) {
  absl::Status status(code, message);
  std::string payload;
  for (const std::string* text :
       {&refusal.reason, &refusal.field, &refusal.subject, &refusal.remedy}) {
    append(*text, payload);
  }
  append(absl::StrCat(absl::ToInt64Milliseconds(refusal.retry_after)), payload);
  for (const auto& [name, value] : refusal.details) {
    append(name, payload);
    append(value, payload);
  }
  status.SetPayload(kPayload, absl::Cord(payload));
  return status;
}

std::optional<Refusal> refusal_of(const absl::Status& status) {
  const auto payload = status.GetPayload(kPayload);
  if (!payload) return std::nullopt;
  const std::string bytes(*payload);
  std::string_view rest = bytes;
  Refusal refusal;
  for (std::string* text : {&refusal.reason, &refusal.field, &refusal.subject, &refusal.remedy}) {
    *text = take(rest).value_or("");
  }
  const std::string delay = take(rest).value_or("0");
  int64_t milliseconds = 0;
  std::from_chars(delay.data(), delay.data() + delay.size(), milliseconds);
  refusal.retry_after = absl::Milliseconds(milliseconds);
  while (auto name = take(rest)) {
    refusal.details.emplace_back(*std::move(name), take(rest).value_or(""));
  }
  return refusal;
}

absl::Status invalid_field(const std::string& field, const std::string& description,
                           const char* reason) {
  return refuse(absl::StatusCode::kInvalidArgument, absl::StrCat(field, ": ", description),
                {.reason = reason, .field = field});
}

std::string message_of(const absl::Status& status) { return std::string(status.message()); }

std::string description_of(const absl::Status& status, const Refusal& refusal) {
  std::string message = message_of(status);
  const std::string prefix = refusal.field + ": ";
  return !refusal.field.empty() && message.starts_with(prefix) ? message.substr(prefix.size())
                                                               : message;
}

std::optional<std::string> field_in(const std::string& message) {
  const size_t colon = message.find(':');
  if (colon == std::string::npos || colon == 0) return std::nullopt;
  const std::string path = message.substr(0, colon);
  const bool is_path = std::ranges::all_of(path, [](char c) {
    const bool letter = std::isalnum(static_cast<unsigned char>(c)) != 0;
    return letter || std::string_view("_.[]").find(c) != std::string_view::npos;
  });
  return is_path ? std::optional(path) : std::nullopt;
}

absl::Status below_field(const std::string& prefix, const absl::Status& status) {
  if (!absl::IsInvalidArgument(status) || refusal_of(status)) return status;
  const std::string message = message_of(status);
  const auto field = field_in(message);
  if (!field) return invalid_field(prefix, message);
  const size_t begin = std::min(message.find_first_not_of(' ', field->size() + 1), message.size());
  return invalid_field(absl::StrCat(prefix, ".", *field), message.substr(begin));
}

absl::Status check_range(const std::string& field, double value, double low, double high) {
  return check(field, value, low, high);
}

absl::Status check_range(const std::string& field, int64_t value, int64_t low, int64_t high) {
  return check(field, value, low, high);
}

absl::Status check_positive(const std::string& field, double value, double high) {
  if (value > 0 && value <= high) return absl::OkStatus();
  return invalid_field(field, absl::StrCat("must be in (0, ", high, "], got ", value));
}

}  // namespace kascade
