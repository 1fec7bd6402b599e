// The file of --tokens.
#include <algorithm>
#include <cstddef>
#include <nlohmann/json.hpp>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "engine/base/json_fault.h"
#include "engine/base/refusal.h"
#include "server/security/access_tokens.h"

namespace kascade::security {
namespace {

using Json = nlohmann::json;

constexpr Scope kScopes[] = {Scope::kInfer, Scope::kCalibrate, Scope::kAdmin};
constexpr size_t kDigestDigits = 64;
constexpr size_t kMaxNameBytes = 64;
constexpr int32_t kMaxInFlight = 1 << 20;
constexpr std::string_view kNameCharacters =
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.";

absl::Status fault(const std::string& where, const std::string& what) {
  return absl::InvalidArgumentError(absl::StrCat(where, ": ", what));
}

std::string quoted(const std::string& text) {
  return Json(text.substr(0, kMaxNameBytes))
      .dump(-1, ' ', /*ensure_ascii=*/true, Json::error_handler_t::replace);
}

absl::Status check_keys(const std::string& where, const Json& entry) {
  static const std::set<std::string> known{"name", "sha256", "scopes", "max_requests_in_flight"};
  if (!entry.is_object()) return fault(where, "must be an object");
  for (const auto& [key, value] : entry.items()) {
    if (known.contains(key)) continue;
    return fault(where, absl::StrCat("unknown key ", quoted(key), "; known are ",
                                     absl::StrJoin(known, ", ")));
  }
  for (const char* key : {"name", "sha256", "scopes"}) {
    if (!entry.contains(key)) return fault(where, absl::StrCat("lacks the key \"", key, "\""));
  }
  return absl::OkStatus();
}

absl::Status read_name(const std::string& where, const Json& value, std::string& out) {
  if (value.is_string()) out = value.get<std::string>();
  const bool valid = !out.empty() && out.size() <= kMaxNameBytes &&
                     out.find_first_not_of(kNameCharacters) == std::string::npos;
  if (valid) return absl::OkStatus();
  return fault(where, absl::StrCat("must be a text of 1 to ", kMaxNameBytes,
                                   " letters, digits, '-', '_' or '.'"));
}

// A secret that was written here by mistake is not repeated in the message.
absl::Status read_digest(const std::string& where, const Json& value, std::string& out) {
  if (value.is_string()) out = value.get<std::string>();
  if (out.size() == kDigestDigits &&
      out.find_first_not_of("0123456789abcdef") == std::string::npos) {
    return absl::OkStatus();
  }
  return fault(where, absl::StrCat("must be ", kDigestDigits,
                                   " lower-case hexadecimal digits, the SHA-256 of the token; has ",
                                   out.size(), " bytes"));
}

absl::Status read_scopes(const std::string& where, const Json& value, std::vector<Scope>& out) {
  if (!value.is_array() || value.empty())
    return fault(where, "must be a list of at least one scope");
  for (size_t i = 0; i < value.size(); ++i) {
    const auto* scope = std::ranges::find_if(kScopes, [&](Scope known) {
      return value[i].is_string() && value[i].get<std::string>() == name_of(known);
    });
    if (scope == std::end(kScopes)) {
      return fault(absl::StrCat(where, "[", i, "]"),
                   absl::StrCat("unknown scope ",
                                value[i].is_string() ? quoted(value[i].get<std::string>())
                                                     : std::string(value[i].type_name()),
                                "; known are infer, calibrate, admin"));
    }
    out.push_back(*scope);
  }
  return absl::OkStatus();
}

absl::Status read_limit(const std::string& where, const Json& value, std::optional<int32_t>& out) {
  if (value.is_number_integer() && value >= 1 && value <= kMaxInFlight) {
    out = value.get<int32_t>();
    return absl::OkStatus();
  }
  return fault(where, absl::StrCat("must be a whole number in [1, ", kMaxInFlight, "]"));
}

absl::StatusOr<AccessToken> read_token(const std::string& where, const Json& entry) {
  AccessToken token;
  absl::Status status = check_keys(where, entry);
  if (!status.ok()) return status;
  status.Update(read_name(absl::StrCat(where, ".name"), entry["name"], token.name));
  status.Update(read_digest(absl::StrCat(where, ".sha256"), entry["sha256"], token.sha256));
  status.Update(read_scopes(absl::StrCat(where, ".scopes"), entry["scopes"], token.scopes));
  if (entry.contains("max_requests_in_flight")) {
    status.Update(read_limit(absl::StrCat(where, ".max_requests_in_flight"),
                             entry["max_requests_in_flight"], token.max_requests_in_flight));
  }
  if (!status.ok()) return status;
  return token;
}

}  // namespace

absl::StatusOr<std::vector<AccessToken>> parse_access_tokens(std::string_view json) {
  const Json root = Json::parse(json, nullptr, /*allow_exceptions=*/false);
  if (root.is_discarded()) return absl::InvalidArgumentError(json_fault<Json>(json));
  if (!root.is_array() || root.empty()) {
    return absl::InvalidArgumentError("must be a list of at least one access token");
  }
  std::vector<AccessToken> tokens;
  std::set<std::string> names;
  std::set<std::string> digests;
  for (size_t i = 0; i < root.size(); ++i) {
    const std::string where = absl::StrCat("[", i, "]");
    auto token = read_token(where, root[i]);
    if (!token.ok()) return token.status();
    if (!names.insert(token->name).second) {
      return fault(where + ".name", absl::StrCat("\"", token->name, "\" occurs twice"));
    }
    if (!digests.insert(token->sha256).second) {
      return fault(where + ".sha256", absl::StrCat("of \"", token->name, "\" occurs twice"));
    }
    tokens.push_back(*std::move(token));
  }
  return tokens;
}

absl::StatusOr<std::vector<AccessToken>> read_access_tokens(const std::filesystem::path& file) {
  const auto content = read_named_file("--tokens", file);
  if (!content.ok()) return content.status();
  auto tokens = parse_access_tokens(*content);
  if (tokens.ok()) return tokens;
  return absl::InvalidArgumentError(
      absl::StrCat("--tokens ", file.string(), ": ", message_of(tokens.status())));
}

}  // namespace kascade::security
