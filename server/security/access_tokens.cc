#include "server/security/access_tokens.h"

#include <openssl/crypto.h>

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "engine/base/digest.h"
#include "engine/base/refusal.h"
#include "spdlog/spdlog.h"

namespace kascade::security {
namespace {

constexpr std::string_view kScheme = "Bearer ";

// Beside the reasons of engine/base/refusal.h: the engine knows nothing of callers.
constexpr char kAccessTokenMissing[] = "ACCESS_TOKEN_MISSING";
constexpr char kAccessTokenUnknown[] = "ACCESS_TOKEN_UNKNOWN";
constexpr char kScopeMissing[] = "SCOPE_MISSING";
constexpr char kTooManyInFlight[] = "TOO_MANY_IN_FLIGHT";

absl::Status unauthenticated(const char* reason, const std::string& message) {
  return refuse(absl::StatusCode::kUnauthenticated, message, {.reason = reason});
}

absl::Status missing_scope(const AccessToken& token, Scope scope, std::string_view rpc) {
  const std::string name(name_of(scope));
  return refuse(absl::StatusCode::kPermissionDenied,
                absl::StrCat("access token \"", token.name, "\" lacks the scope \"", name,
                             "\", which ", std::string(rpc), " needs"),
                {.reason = kScopeMissing, .details = {{"scope", name}}});
}

absl::Status too_many(const AccessToken& token, int32_t limit) {
  return refuse(absl::StatusCode::kResourceExhausted,
                absl::StrCat("access token \"", token.name, "\" has ", limit,
                             " requests in flight, as many as it may (max_requests_in_flight)"),
                {.reason = kTooManyInFlight,
                 .retry_after = absl::Seconds(1),
                 .details = {{"max_requests_in_flight", absl::StrCat(limit)}}});
}

}  // namespace

std::string_view name_of(Scope scope) {
  switch (scope) {
    case Scope::kInfer:
      return "infer";
    case Scope::kCalibrate:
      return "calibrate";
    case Scope::kAdmin:
      return "admin";
  }
  return "";
}

bool AccessToken::allows(Scope scope) const {
  return std::ranges::find(scopes, scope) != scopes.end();
}

absl::StatusOr<std::unique_ptr<AccessTokens>> AccessTokens::open(const std::filesystem::path& file,
                                                                 absl::Duration interval) {
  std::unique_ptr<AccessTokens> tokens(new AccessTokens(file, interval));
  if (absl::Status status = tokens->load(); !status.ok()) return status;
  tokens->watch_.start([self = tokens.get()] {
    const absl::Status status = self->load();
    if (status.ok()) {
      spdlog::info("access tokens are read again from {}", self->file_.string());
    } else {
      spdlog::warn("access tokens stay as they were: {}", message_of(status));
    }
  });
  return tokens;
}

AccessTokens::AccessTokens(std::filesystem::path file, absl::Duration interval)
    : file_(std::move(file)), watch_({file_}, interval) {}

absl::Status AccessTokens::load() {
  auto tokens = read_access_tokens(file_);
  if (!tokens.ok()) return tokens.status();
  auto entries = std::make_shared<std::vector<Entry>>();
  const std::lock_guard lock(mutex_);
  for (AccessToken& token : *tokens) {
    InFlight::Count& count = counts_[token.name];
    if (!count) count = std::make_shared<std::atomic<int32_t>>(0);
    entries->push_back({std::move(token), count});
  }
  entries_ = std::move(entries);
  return absl::OkStatus();
}

absl::StatusOr<AccessTokens::Entry> AccessTokens::find(
    const std::vector<std::string_view>& authorization) const {
  const bool one = authorization.size() == 1;
  if (!one || !absl::StartsWithIgnoreCase(
                  absl::string_view(authorization[0].data(), authorization[0].size()),
                  absl::string_view(kScheme.data(), kScheme.size()))) {
    return unauthenticated(kAccessTokenMissing,
                           "the server asks for an access token: send the header "
                           "\"authorization: Bearer TOKEN\" once");
  }
  const std::string shown = digest(authorization[0].substr(kScheme.size()));
  std::shared_ptr<const std::vector<Entry>> entries;
  {
    const std::lock_guard lock(mutex_);
    entries = entries_;
  }
  const Entry* found = nullptr;
  // All digests are compared in full, so that the time tells nothing about them.
  for (const Entry& entry : *entries) {
    const std::string& known = entry.token.sha256;
    if (CRYPTO_memcmp(known.data(), shown.data(), shown.size()) == 0) found = &entry;
  }
  if (found != nullptr) return *found;
  return unauthenticated(kAccessTokenUnknown, "the server does not know this access token");
}

absl::Status AccessTokens::check_known(const std::vector<std::string_view>& authorization) const {
  return find(authorization).status();
}

absl::StatusOr<AdmittedRequest> AccessTokens::admit(
    const std::vector<std::string_view>& authorization, Scope scope, std::string_view rpc) const {
  const auto entry = find(authorization);
  if (!entry.ok()) return entry.status();
  const AccessToken& token = entry->token;
  if (!token.allows(scope)) return missing_scope(token, scope, rpc);
  const int32_t before = entry->count->fetch_add(1);
  InFlight in_flight(entry->count);
  if (token.max_requests_in_flight && before >= *token.max_requests_in_flight) {
    return too_many(token, *token.max_requests_in_flight);
  }
  return AdmittedRequest{.token_name = token.name, .in_flight = std::move(in_flight)};
}

}  // namespace kascade::security
