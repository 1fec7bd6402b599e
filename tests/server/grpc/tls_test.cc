// Tests TLS of the gRPC listener: which clients can connect, and certificates that change.
#include <atomic>
#include <memory>
#include <string>
#include <thread>

#include "gmock/gmock.h"
#include "grpc/grpc_security_constants.h"
#include "gtest/gtest.h"
#include "tests/support/captured_log.h"
#include "tests/support/certificates.h"
#include "tests/support/server_fixture.h"

namespace kascade::testing {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

constexpr char kExpiry[] = "\nkascade_tls_certificate_expiry_timestamp_seconds ";

class TlsTest : public ServerTest {
 protected:
  TlsTest() { write(identity_); }

  void write(const Identity& identity) {
    write_file(dir_ / "server.key", identity.key);
    write_file(dir_ / "server.pem", identity.certificate);
  }
  void start(bool client_certificates) {
    server::ServerOptions options = server_options(dir_.path());
    options.security.tls = {.certificate = dir_ / "server.pem", .key = dir_ / "server.key"};
    if (client_certificates) {
      write_file(dir_ / "clients.pem", clients_.certificate());
      options.security.tls.client_authorities = dir_ / "clients.pem";
    }
    server_ = std::make_unique<TestServer>(options);
  }

  // A call on a connection of its own.
  struct Answer {
    grpc::Status status{};
    std::string server_certificate{};  // PEM
  };
  Answer ask(const std::shared_ptr<grpc::ChannelCredentials>& credentials) {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    const auto channel = grpc::CreateCustomChannel(absl::StrCat("localhost:", server()->port()),
                                                   credentials, arguments);
    const auto stub = v1::InferenceService::NewStub(channel);
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(30));
    v1::GetModelInfoResponse response;
    Answer answer{.status = stub->GetModelInfo(&context, {}, &response)};
    if (!answer.status.ok()) return answer;
    for (const auto& value :
         context.auth_context()->FindPropertyValues(GRPC_X509_PEM_CERT_PROPERTY_NAME)) {
      answer.server_certificate = std::string(value.data(), value.size());
    }
    return answer;
  }
  std::shared_ptr<grpc::ChannelCredentials> credentials(const Identity& client = {}) const {
    return credentials_of(servers_, client);
  }
  static std::shared_ptr<grpc::ChannelCredentials> credentials_of(const Authority& authority,
                                                                  const Identity& client) {
    return grpc::SslCredentials({.pem_root_certs = authority.certificate(),
                                 .pem_private_key = client.key,
                                 .pem_cert_chain = client.certificate});
  }

  const Authority servers_{"servers"};
  const Authority clients_{"clients"};
  const Identity identity_ = servers_.issue("localhost");
};

TEST_F(TlsTest, WhoTrustsTheAuthorityCanConnect) {
  start(/*client_certificates=*/false);
  const Answer answer = ask(credentials());
  EXPECT_TRUE(answer.status.ok()) << answer.status.error_message();
  EXPECT_EQ(answer.server_certificate, identity_.certificate);
  EXPECT_THAT(server()->metrics_text(), HasSubstr(kExpiry));
  const grpc::Status other = ask(credentials_of(clients_, {})).status;
  EXPECT_EQ(other.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_THAT(other.error_message(), HasSubstr("certificate verify failed"));
  EXPECT_EQ(ask(grpc::InsecureChannelCredentials()).status.error_code(),
            grpc::StatusCode::UNAVAILABLE);
}

TEST_F(TlsTest, WithAClientAuthorityOnlyItsClientsCanConnect) {
  start(/*client_certificates=*/true);
  const grpc::Status good = ask(credentials(clients_.issue("good"))).status;
  EXPECT_TRUE(good.ok()) << good.error_message();
  const Authority strangers("clients");  // of the same name
  for (const Identity& client : {Identity{}, strangers.issue("good"), servers_.issue("good"),
                                 clients_.issue("expired", -absl::Hours(1))}) {
    EXPECT_EQ(ask(credentials(client)).status.error_code(), grpc::StatusCode::UNAVAILABLE);
  }
}

TEST_F(TlsTest, ACertificateIsSwappedUnderLoadAndABrokenOneIsNotUsed) {
  start(/*client_certificates=*/false);
  std::atomic<bool> stop = false;
  std::atomic<int> answered = 0;
  std::atomic<int> lost = 0;
  const auto load = [&](bool new_connections) {
    const auto channel =
        grpc::CreateChannel(absl::StrCat("localhost:", server()->port()), credentials());
    const auto stub = v1::InferenceService::NewStub(channel);
    while (!stop) {
      grpc::ClientContext context;
      v1::GetModelInfoResponse response;
      const bool ok = new_connections ? ask(credentials()).status.ok()
                                      : stub->GetModelInfo(&context, {}, &response).ok();
      ++(ok ? answered : lost);
    }
  };
  std::thread old_connection(load, false);
  std::thread new_connections(load, true);
  const Identity second = servers_.issue("localhost", absl::Hours(2));
  write(second);
  EXPECT_TRUE(
      eventually([&] { return ask(credentials()).server_certificate == second.certificate; }));
  const std::string metrics = server()->metrics_text();
  {
    const CapturedLog log;
    write_file(dir_ / "server.key", identity_.key);  // of the first certificate
    EXPECT_TRUE(log.waits_for("the TLS files stay as they were: --tls-key"));
  }
  EXPECT_EQ(ask(credentials()).server_certificate, second.certificate);
  EXPECT_THAT(server()->metrics_text(),
              HasSubstr(metrics.substr(metrics.find(kExpiry), sizeof(kExpiry) + 10)));
  write(identity_);
  EXPECT_TRUE(
      eventually([&] { return ask(credentials()).server_certificate == identity_.certificate; }));
  stop = true;
  old_connection.join();
  new_connections.join();
  EXPECT_EQ(lost, 0);
  EXPECT_GT(answered, 0);
}

TEST_F(TlsTest, WithoutTlsThereIsNoExpiry) {
  EXPECT_THAT(server()->metrics_text(), Not(HasSubstr(kExpiry)));
}

TEST_F(TlsTest, AServerWithoutUsableFilesDoesNotStart) {
  server::ServerOptions options = server_options(dir_ / "no-model");
  options.security.tls = {.certificate = dir_ / "server.pem", .key = dir_ / "absent.key"};
  const auto started = server::Server::start(options);
  EXPECT_THAT(std::string(started.status().message()),
              HasSubstr("--tls-key " + (dir_ / "absent.key").string() + ": cannot be read"));
  options.security = {};
  options.listen = "0.0.0.0:0";
  EXPECT_THAT(std::string(server::Server::start(options).status().message()),
              HasSubstr("--allow-plaintext"));
}

}  // namespace
}  // namespace kascade::testing
