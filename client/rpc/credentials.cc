#include "client/rpc/credentials.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <string>

#include "grpc/health/v1/health.grpc.pb.h"

namespace kascade::client {
namespace {

constexpr char kSpace[] = " \t\r\n";
constexpr std::chrono::seconds kReasonPatience{2};

absl::StatusOr<std::string> read_file(const char* option, const std::string& file) {
  std::ifstream in(file, std::ios::binary);
  const std::string content{std::istreambuf_iterator<char>(in), {}};
  if (in.bad() || !in.is_open()) {
    return absl::NotFoundError(fmt::format("{} {}: cannot be read", option, file));
  }
  if (content.empty()) {
    return absl::InvalidArgumentError(fmt::format("{} {}: is empty", option, file));
  }
  return content;
}

// Reads the file of an option into `content`, if it was given.
absl::Status read_if_named(const char* option, const std::string& file, std::string& content) {
  if (file.empty()) return absl::OkStatus();
  auto read = read_file(option, file);
  if (read.ok()) content = *std::move(read);
  return read.status();
}

std::string trimmed(const std::string& text) {
  const size_t begin = text.find_first_not_of(kSpace);
  if (begin == std::string::npos) return "";
  return text.substr(begin, text.find_last_not_of(kSpace) - begin + 1);
}

// What to look at after a failed handshake, by what gRPC and OpenSSL say of it.
std::string hint_for(const std::string& reason, const Credentials& credentials) {
  const auto says = [&](const char* words) { return reason.find(words) != std::string::npos; };
  if (says("certificate verify failed")) {
    return " (is --tls-ca the authority of the server's certificate?)";
  }
  if (says("wrong version number")) return " (the server speaks no TLS there)";
  if (says("Peer name")) return " (the server's certificate is for other names)";
  if (!credentials.certificate.empty()) return "";
  return " (does the server ask for client certificates? see --tls-cert)";
}

}  // namespace

absl::Status read_token(Credentials& credentials) {
  std::string source = "KASCADE_TOKEN";
  std::string content;
  if (!credentials.token_file.empty()) {
    source = fmt::format("--token-file {}", credentials.token_file);
    const absl::Status status = read_if_named("--token-file", credentials.token_file, content);
    if (!status.ok()) return status;
  } else if (const char* variable = std::getenv("KASCADE_TOKEN"); variable != nullptr) {
    content = variable;
    if (content.empty()) return absl::OkStatus();
  } else {
    return absl::OkStatus();
  }
  credentials.token = trimmed(content);
  // Other bytes would end the process inside gRPC.
  const bool printable =
      std::ranges::all_of(credentials.token, [](char c) { return c > ' ' && c <= '~'; });
  if (!credentials.token.empty() && printable) return absl::OkStatus();
  return absl::InvalidArgumentError(
      fmt::format("{}: an access token is one word of printable ASCII characters", source));
}

absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> channel_credentials(
    const Credentials& credentials) {
  if (!credentials.uses_tls()) return grpc::InsecureChannelCredentials();
  grpc::SslCredentialsOptions options;
  absl::Status status = read_if_named("--tls-ca", credentials.authorities, options.pem_root_certs);
  status.Update(read_if_named("--tls-cert", credentials.certificate, options.pem_cert_chain));
  status.Update(read_if_named("--tls-key", credentials.key, options.pem_private_key));
  if (!status.ok()) return status;
  return grpc::SslCredentials(options);
}

absl::Status connection_failure(const Globals& globals,
                                const std::shared_ptr<grpc::Channel>& channel) {
  const std::string& server = globals.server;
  if (!globals.credentials.uses_tls()) {
    return absl::UnavailableError(fmt::format(
        "no server answers at {} (is kascade-server running there? see --server; does it ask for "
        "TLS? see --tls)",
        server));
  }
  // Only a call learns why.
  const auto stub = grpc::health::v1::Health::NewStub(channel);
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + kReasonPatience);
  grpc::health::v1::HealthCheckResponse response;
  const grpc::Status status = stub->Check(&context, {}, &response);
  const std::string& reason = status.error_message();
  return absl::UnavailableError(fmt::format("no TLS connection to {}: {}{}", server, reason,
                                            hint_for(reason, globals.credentials)));
}

}  // namespace kascade::client
