// Tests access tokens: their file, who is let in, and what happens when the file changes.
#include "server/security/access_tokens.h"

#include <chrono>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/base/digest.h"
#include "engine/base/refusal.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/captured_log.h"
#include "tests/support/tiny_model.h"

namespace kascade::testing {
namespace {

using security::AccessTokens;
using security::parse_access_tokens;
using security::Scope;
using ::testing::HasSubstr;
using ::testing::Not;

std::string entry(const std::string& name, const std::string& secret, const std::string& scopes,
                  const std::string& more = "") {
  return absl::StrCat(R"({"name": ")", name, R"(", "sha256": ")", digest(secret),
                      R"(", "scopes": [)", scopes, "]", more, "}");
}

std::string fault_of(const std::string& json) {
  const auto tokens = parse_access_tokens(json);
  EXPECT_EQ(tokens.status().code(), absl::StatusCode::kInvalidArgument) << json;
  return std::string(tokens.status().message());
}

TEST(AccessTokenFile, HoldsNamesDigestsScopesAndLimits) {
  const auto tokens = parse_access_tokens(
      "[" + entry("chat", "s1", R"("infer")", R"(, "max_requests_in_flight": 8)") + "," +
      entry("ops-1", "s2", R"("admin", "calibrate")") + "]");
  ASSERT_TRUE(tokens.ok()) << tokens.status();
  ASSERT_EQ(tokens->size(), 2u);
  EXPECT_EQ((*tokens)[0].name, "chat");
  EXPECT_EQ((*tokens)[0].sha256, digest("s1"));
  EXPECT_EQ((*tokens)[0].max_requests_in_flight, 8);
  EXPECT_TRUE((*tokens)[0].allows(Scope::kInfer));
  EXPECT_FALSE((*tokens)[0].allows(Scope::kAdmin));
  // One scope implies no other.
  EXPECT_TRUE((*tokens)[1].allows(Scope::kAdmin) && (*tokens)[1].allows(Scope::kCalibrate));
  EXPECT_FALSE((*tokens)[1].allows(Scope::kInfer));
  EXPECT_FALSE((*tokens)[1].max_requests_in_flight.has_value());
}

TEST(AccessTokenFile, FaultsAreNamed) {
  const std::string infer = R"("infer")";
  EXPECT_EQ(fault_of("[{]"), "is not valid JSON in UTF-8 at byte 3");
  EXPECT_EQ(fault_of("{}"), "must be a list of at least one access token");
  EXPECT_EQ(fault_of("[]"), "must be a list of at least one access token");
  EXPECT_EQ(fault_of("[1]"), "[0]: must be an object");
  EXPECT_EQ(fault_of(R"([{"name": "a", "sha256": ""}])"), "[0]: lacks the key \"scopes\"");
  EXPECT_EQ(fault_of("[" + entry("a", "s", infer, R"(, "scope": 1)") + "]"),
            "[0]: unknown key \"scope\"; known are max_requests_in_flight, name, scopes, sha256");
  for (const char* name : {"", "a b", "a\\n", "ä"}) {
    EXPECT_THAT(fault_of("[" + entry(name, "s", infer) + "]"), HasSubstr("[0].name: must be"));
  }
  EXPECT_THAT(fault_of("[" + entry(std::string(65, 'a'), "s", infer) + "]"),
              HasSubstr("[0].name: must be a text of 1 to 64 letters"));
  EXPECT_EQ(fault_of("[" + entry("a", "s", infer) + "," + entry("a", "t", infer) + "]"),
            "[1].name: \"a\" occurs twice");
  EXPECT_EQ(fault_of("[" + entry("a", "s", infer) + "," + entry("b", "s", infer) + "]"),
            "[1].sha256: of \"b\" occurs twice");
  EXPECT_EQ(fault_of("[" + entry("a", "s", R"("infer", "root")") + "]"),
            "[0].scopes[1]: unknown scope \"root\"; known are infer, calibrate, admin");
  EXPECT_THAT(fault_of("[" + entry("a", "s", "7") + "]"), HasSubstr("unknown scope number"));
  EXPECT_EQ(fault_of("[" + entry("a", "s", "") + "]"),
            "[0].scopes: must be a list of at least one scope");
  for (const char* limit : {"0", "-1", "1.5", "1048577", "\"8\"", "true"}) {
    EXPECT_EQ(
        fault_of("[" +
                 entry("a", "s", infer, absl::StrCat(R"(, "max_requests_in_flight": )", limit)) +
                 "]"),
        "[0].max_requests_in_flight: must be a whole number in [1, 1048576]");
  }
}

TEST(AccessTokenFile, ASecretInTheDigestsPlaceIsNotRepeated) {
  const std::string fault =
      fault_of(R"([{"name": "a", "sha256": "my secret", "scopes": ["infer"]}])");
  EXPECT_EQ(fault,
            "[0].sha256: must be 64 lower-case hexadecimal digits, the SHA-256 of the "
            "token; has 9 bytes");
  EXPECT_THAT(fault_of(R"([{"name": "a", "sha256": ")" + std::string(64, 'A') +
                       R"(", "scopes": ["infer"]}])"),
              HasSubstr("[0].sha256"));
}

class AccessTokensTest : public ::testing::Test {
 protected:
  void write(const std::string& json) { write_file(file_, json); }
  void open(const std::string& json) {
    write(json);
    auto tokens = AccessTokens::open(file_, absl::Milliseconds(5));
    ASSERT_TRUE(tokens.ok()) << tokens.status();
    tokens_ = *std::move(tokens);
  }
  absl::StatusOr<security::AdmittedRequest> admit(const std::string& header) const {
    return tokens_->admit({header}, Scope::kInfer, "Generate");
  }
  bool becomes(absl::StatusCode code, const std::string& header) const {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
    while (admit(header).status().code() != code) {
      if (std::chrono::steady_clock::now() > deadline) return false;
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    return true;
  }
  static std::string reason_of(const absl::Status& status) {
    const auto refusal = refusal_of(status);
    return refusal ? refusal->reason : "";
  }

  const TempDir dir_{};
  const std::filesystem::path file_ = dir_ / "tokens.json";
  std::unique_ptr<AccessTokens> tokens_;
};

TEST_F(AccessTokensTest, OneHeaderWithAKnownSecretIsLetIn) {
  open("[" + entry("chat", "s3cret", R"("infer")") + "]");
  for (const char* header : {"Bearer s3cret", "bearer s3cret"}) {
    const auto admitted = admit(header);
    ASSERT_TRUE(admitted.ok()) << admitted.status();
    EXPECT_EQ(admitted->token_name, "chat");
  }
  for (const char* header : {"", "s3cret", "Basic s3cret", "Bearer"}) {
    const absl::Status status = admit(header).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kUnauthenticated) << header;
    EXPECT_EQ(reason_of(status), "ACCESS_TOKEN_MISSING") << header;
  }
  const std::string digest_of_secret = digest("s3cret");
  for (const std::string& header : {std::string("Bearer "), std::string("Bearer s3cre"),
                                    std::string("Bearer s3cret "), "Bearer " + digest_of_secret}) {
    const absl::Status status = admit(header).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kUnauthenticated) << header;
    EXPECT_EQ(reason_of(status), "ACCESS_TOKEN_UNKNOWN") << header;
    EXPECT_THAT(std::string(status.message()), Not(HasSubstr("s3cre")));
  }
  EXPECT_EQ(reason_of(tokens_->admit({}, Scope::kInfer, "Generate").status()),
            "ACCESS_TOKEN_MISSING");
  EXPECT_EQ(
      reason_of(
          tokens_->admit({"Bearer s3cret", "Bearer s3cret"}, Scope::kInfer, "Generate").status()),
      "ACCESS_TOKEN_MISSING");
  EXPECT_TRUE(tokens_->check_known({"Bearer s3cret"}).ok());
  EXPECT_FALSE(tokens_->check_known({"Bearer x"}).ok());
}

TEST_F(AccessTokensTest, AMissingScopeIsNamed) {
  open("[" + entry("chat", "s", R"("infer")") + "]");
  const absl::Status status =
      tokens_->admit({"Bearer s"}, Scope::kAdmin, "ActivateSchedule").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kPermissionDenied);
  EXPECT_EQ(status.message(),
            "access token \"chat\" lacks the scope \"admin\", which ActivateSchedule needs");
  EXPECT_EQ(reason_of(status), "SCOPE_MISSING");
}

TEST_F(AccessTokensTest, RequestsInFlightAreLimitedForEachToken) {
  open("[" + entry("chat", "s", R"("infer")", R"(, "max_requests_in_flight": 2)") + "," +
       entry("other", "t", R"("infer")") + "]");
  auto first = admit("Bearer s");
  const auto second = admit("Bearer s");
  ASSERT_TRUE(first.ok() && second.ok());
  const absl::Status status = admit("Bearer s").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(reason_of(status), "TOO_MANY_IN_FLIGHT");
  EXPECT_GT(refusal_of(status)->retry_after, absl::ZeroDuration());
  EXPECT_TRUE(admit("Bearer t").ok());
  // What was refused or has a missing scope counts for nothing.
  EXPECT_FALSE(tokens_->admit({"Bearer s"}, Scope::kAdmin, "ActivateSchedule").ok());
  first->in_flight.reset();
  EXPECT_TRUE(admit("Bearer s").ok());
  EXPECT_TRUE(admit("Bearer s").ok());
}

TEST_F(AccessTokensTest, ANewFileCountsAndABrokenOneDoesNot) {
  const std::string limit = R"(, "max_requests_in_flight": 1)";
  open("[" + entry("chat", "old", R"("infer")", limit) + "]");
  const auto running = admit("Bearer old");
  ASSERT_TRUE(running.ok());
  write("[" + entry("chat", "new", R"("infer")", limit) + "]");
  EXPECT_TRUE(becomes(absl::StatusCode::kUnauthenticated, "Bearer old"));
  // The request that began before the change is still in flight.
  EXPECT_EQ(admit("Bearer new").status().code(), absl::StatusCode::kResourceExhausted);
  const CapturedLog log;
  write("[");
  EXPECT_TRUE(log.waits_for("access tokens stay as they were: --tokens " + file_.string()));
  EXPECT_EQ(admit("Bearer new").status().code(), absl::StatusCode::kResourceExhausted);
  write("[" + entry("chat", "newest", R"("infer")") + "]");
  EXPECT_TRUE(becomes(absl::StatusCode::kOk, "Bearer newest"));
  EXPECT_THAT(log.text(), Not(HasSubstr("newest")));
}

TEST_F(AccessTokensTest, AFileThatCannotBeReadIsNamed) {
  const auto tokens = AccessTokens::open(file_);
  EXPECT_EQ(tokens.status().message(),
            "--tokens " + file_.string() + ": cannot be read: No such file or directory");
  write("{}");
  EXPECT_EQ(AccessTokens::open(file_).status().message(),
            "--tokens " + file_.string() + ": must be a list of at least one access token");
}

}  // namespace
}  // namespace kascade::testing
