#include "server/grpc/credentials.h"

#include <mutex>
#include <string>
#include <utility>

#include "absl/time/clock.h"
#include "engine/base/check.h"
#include "engine/base/refusal.h"
#include "grpc/grpc.h"
#include "grpc/grpc_security.h"
#include "server/security/file_watch.h"
#include "spdlog/spdlog.h"

namespace kascade::server {
namespace {

using security::TlsContents;
using security::TlsFiles;

// gRPC's own classes with files that change take a pair that does not match, and then refuse every
// connection. Its C interface asks before each handshake whether there is something new.
class ReloadedTls final : public grpc::ServerCredentials {
 public:
  ReloadedTls(TlsFiles files, std::function<void(absl::Time)> on_expiry)
      : files_(std::move(files)),
        on_expiry_(std::move(on_expiry)),
        watch_(files_.named(), security::kFileWatchInterval) {}
  ~ReloadedTls() override {
    if (credentials_ != nullptr) grpc_server_credentials_release(credentials_);
  }
  ReloadedTls(const ReloadedTls&) = delete;
  ReloadedTls& operator=(const ReloadedTls&) = delete;

  absl::Status open() {
    if (absl::Status status = load(); !status.ok()) return status;
    const auto clients = files_.client_authorities.empty()
                             ? GRPC_SSL_DONT_REQUEST_CLIENT_CERTIFICATE
                             : GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY;
    credentials_ = grpc_ssl_server_credentials_create_with_options(
        grpc_ssl_server_credentials_create_options_using_config_fetcher(clients, fetch, this));
    watch_.start([this] {
      if (const absl::Status status = load(); !status.ok()) {
        spdlog::warn("the TLS files stay as they were: {}", message_of(status));
      }
    });
    return absl::OkStatus();
  }

  void read_again() { watch_.look(); }

  // Access tokens are looked at by RpcRecord::admit(), which can tell reasons.
  void SetAuthMetadataProcessor(const std::shared_ptr<grpc::AuthMetadataProcessor>&) override {
    KASCADE_CHECK(false);
  }

 private:
  int AddPortToServer(const std::string& address, grpc_server* server) override {
    return grpc_server_add_http2_port(server, address.c_str(), credentials_);
  }

  absl::Status load() {
    auto contents = security::read_tls_files(files_);
    if (!contents.ok()) return contents.status();
    const std::string expiry = absl::FormatTime(contents->expiry, absl::UTCTimeZone());
    if (contents->expiry <= absl::Now()) {
      spdlog::warn("the TLS certificate {} has expired: {}", files_.certificate.string(), expiry);
    } else {
      spdlog::info("the TLS certificate {} expires {}", files_.certificate.string(), expiry);
    }
    on_expiry_(contents->expiry);
    const std::lock_guard lock(mutex_);
    contents_ = *std::move(contents);
    is_new_ = true;
    return absl::OkStatus();
  }

  static grpc_ssl_certificate_config_reload_status fetch(
      void* self, grpc_ssl_server_certificate_config** config) {
    auto& tls = *static_cast<ReloadedTls*>(self);
    const std::lock_guard lock(tls.mutex_);
    if (!std::exchange(tls.is_new_, false)) return GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_UNCHANGED;
    const TlsContents& contents = tls.contents_;
    const grpc_ssl_pem_key_cert_pair pair{.private_key = contents.key.c_str(),
                                          .cert_chain = contents.certificate.c_str()};
    // gRPC insists on authorities also where it never looks at them, because no client
    // certificate is asked for.
    const std::string& authorities =
        contents.client_authorities.empty() ? contents.certificate : contents.client_authorities;
    *config = grpc_ssl_server_certificate_config_create(authorities.c_str(), &pair, 1);
    return GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_NEW;
  }

  const TlsFiles files_;
  const std::function<void(absl::Time)> on_expiry_;
  grpc_server_credentials* credentials_ = nullptr;
  std::mutex mutex_;  // guards what follows
  TlsContents contents_{};
  bool is_new_ = false;        // gRPC has not asked since the last load
  security::FileWatch watch_;  // last: its thread uses the others
};

}  // namespace

absl::StatusOr<ListenerCredentials> listener_credentials(
    const TlsFiles& files, std::function<void(absl::Time)> on_expiry) {
  if (!files.enabled()) return ListenerCredentials{grpc::InsecureServerCredentials()};
  auto tls = std::make_shared<ReloadedTls>(files, std::move(on_expiry));
  if (absl::Status status = tls->open(); !status.ok()) return status;
  return ListenerCredentials{tls, [tls = tls.get()] { tls->read_again(); }};
}

}  // namespace kascade::server
