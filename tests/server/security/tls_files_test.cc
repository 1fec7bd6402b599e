// Tests which TLS files are taken, and how the others are refused.
#include "server/security/tls_files.h"

#include <string>

#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/security/listener_security.h"
#include "tests/support/certificates.h"
#include "tests/support/tiny_model.h"

namespace kascade::testing {
namespace {

using security::ListenerSecurity;
using security::read_tls_files;
using security::TlsFiles;
using ::testing::AllOf;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::StartsWith;

class TlsFilesTest : public ::testing::Test {
 protected:
  TlsFilesTest() {
    write_file(files_.certificate, identity_.certificate);
    write_file(files_.key, identity_.key);
  }

  std::string refusal() const {
    const auto contents = read_tls_files(files_);
    EXPECT_EQ(contents.status().code(), absl::StatusCode::kInvalidArgument);
    return std::string(contents.status().message());
  }

  const TempDir dir_{};
  const Authority authority_{"authority"};
  const Identity identity_ = authority_.issue("server");
  TlsFiles files_{.certificate = dir_ / "server.pem", .key = dir_ / "server.key"};
};

TEST_F(TlsFilesTest, APairIsReadWithItsExpiry) {
  const auto contents = read_tls_files(files_);
  ASSERT_TRUE(contents.ok()) << contents.status();
  EXPECT_EQ(contents->certificate, identity_.certificate);
  EXPECT_EQ(contents->key, identity_.key);
  EXPECT_EQ(contents->client_authorities, "");
  EXPECT_LT(absl::AbsDuration(contents->expiry - absl::Now() - absl::Hours(1)), absl::Minutes(1));
  EXPECT_EQ(files_.named().size(), 2u);
}

TEST_F(TlsFilesTest, TheServersCertificateIsTheFirstOfItsChain) {
  write_file(files_.certificate, identity_.certificate + authority_.certificate());
  EXPECT_TRUE(read_tls_files(files_).ok());
  write_file(files_.certificate, authority_.certificate() + identity_.certificate);
  EXPECT_THAT(refusal(), AllOf(StartsWith("--tls-key " + files_.key.string() + ": is not the key"),
                               EndsWith("--tls-cert " + files_.certificate.string())));
}

TEST_F(TlsFilesTest, WhatCannotBeUsedIsNamedWithFlagAndFile) {
  const std::string certificate = "--tls-cert " + files_.certificate.string() + ": ";
  const std::string key = "--tls-key " + files_.key.string() + ": ";
  write_file(files_.certificate, "");
  EXPECT_EQ(refusal(), certificate + "holds no PEM certificate");
  write_file(files_.certificate, identity_.key);
  EXPECT_EQ(refusal(), certificate + "holds no PEM certificate");
  std::string damaged = identity_.certificate;
  damaged[100] = damaged[100] == 'A' ? 'B' : 'A';
  damaged.resize(damaged.size() - 60);
  write_file(files_.certificate, damaged);
  EXPECT_EQ(refusal(), certificate + "holds a damaged PEM certificate");
  write_file(files_.certificate, identity_.certificate + damaged);
  EXPECT_EQ(refusal(), certificate + "holds a damaged PEM certificate");
  std::filesystem::remove(files_.certificate);
  EXPECT_EQ(refusal(), certificate + "cannot be read: No such file or directory");

  write_file(files_.certificate, identity_.certificate);
  write_file(files_.key, identity_.certificate);
  EXPECT_EQ(refusal(), key + "holds no PEM private key");
  write_file(files_.key, encrypted_key(identity_));
  EXPECT_EQ(refusal(), key + "is encrypted; the server takes keys without a passphrase only");
  write_file(files_.key, authority_.issue("other").key);
  EXPECT_THAT(refusal(), StartsWith(key + "is not the key of the first certificate"));
  files_.key = dir_.path();
  EXPECT_EQ(refusal(), "--tls-key " + dir_.path().string() + ": is a folder");
}

TEST_F(TlsFilesTest, ClientAuthoritiesAreCheckedToo) {
  files_.client_authorities = dir_ / "ca.pem";
  EXPECT_THAT(refusal(), HasSubstr("--tls-client-ca " + files_.client_authorities.string()));
  write_file(files_.client_authorities, "none");
  EXPECT_THAT(refusal(), EndsWith("holds no PEM certificate"));
  write_file(files_.client_authorities, authority_.certificate());
  const auto contents = read_tls_files(files_);
  ASSERT_TRUE(contents.ok()) << contents.status();
  EXPECT_EQ(contents->client_authorities, authority_.certificate());
  EXPECT_EQ(files_.named().size(), 3u);
}

TEST_F(TlsFilesTest, AnAddressThatOthersReachNeedsTlsOrAFlag) {
  const net::Address everywhere{.host = "0.0.0.0", .port = 50051};
  const net::Address here{.host = "127.0.0.1", .port = 50051};
  EXPECT_TRUE(security::check({}, here).ok());
  EXPECT_TRUE(security::check({}, {.unix_path = "/run/socket"}).ok());
  const absl::Status status = security::check({}, everywhere);
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()),
              AllOf(StartsWith("--listen 0.0.0.0:50051: "), HasSubstr("--tls-cert"),
                    HasSubstr("--allow-plaintext")));
  EXPECT_TRUE(security::check({.allow_plaintext = true}, everywhere).ok());
  EXPECT_TRUE(security::check({.tls = files_}, everywhere).ok());
  // Files are checked wherever the server listens.
  write_file(files_.key, "");
  EXPECT_FALSE(security::check({.tls = files_}, here).ok());
  EXPECT_FALSE(security::check({.tokens = dir_ / "absent.json"}, here).ok());
}

}  // namespace
}  // namespace kascade::testing
