#include "server/security/tls_files.h"

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509.h>

#include <ctime>
#include <memory>

#include "absl/strings/str_cat.h"
#include "server/security/file_watch.h"

namespace kascade::security {
namespace {

constexpr char kCertificateFlag[] = "--tls-cert";
constexpr char kKeyFlag[] = "--tls-key";
constexpr char kClientAuthoritiesFlag[] = "--tls-client-ca";

struct Free {
  void operator()(BIO* bio) const { BIO_free(bio); }
  void operator()(X509* certificate) const { X509_free(certificate); }
  void operator()(EVP_PKEY* key) const { EVP_PKEY_free(key); }
};
using Certificate = std::unique_ptr<X509, Free>;
using Key = std::unique_ptr<EVP_PKEY, Free>;

absl::Status refused(const char* flag, const std::filesystem::path& file,
                     const std::string& reason) {
  return absl::InvalidArgumentError(absl::StrCat(flag, " ", file.string(), ": ", reason));
}

std::unique_ptr<BIO, Free> reader_of(const std::string& text) {
  return std::unique_ptr<BIO, Free>(BIO_new_mem_buf(text.data(), static_cast<int>(text.size())));
}

// OpenSSL would ask on the terminal otherwise.
int no_passphrase(char*, int, int, void* asked) {
  *static_cast<bool*>(asked) = true;
  return -1;
}

// All certificates of a file, the first of which is returned.
absl::StatusOr<Certificate> parse_certificates(const char* flag, const std::filesystem::path& file,
                                               const std::string& pem) {
  const auto in = reader_of(pem);
  ERR_clear_error();
  Certificate first;
  while (Certificate next{PEM_read_bio_X509(in.get(), nullptr, nullptr, nullptr)}) {
    if (!first) first = std::move(next);
  }
  const unsigned long error = ERR_peek_last_error();
  ERR_clear_error();
  const bool at_end =
      ERR_GET_LIB(error) == ERR_LIB_PEM && ERR_GET_REASON(error) == PEM_R_NO_START_LINE;
  if (!at_end) return refused(flag, file, "holds a damaged PEM certificate");
  if (!first) return refused(flag, file, "holds no PEM certificate");
  return first;
}

absl::StatusOr<Key> parse_key(const std::filesystem::path& file, const std::string& pem) {
  const auto in = reader_of(pem);
  bool encrypted = false;
  Key key(PEM_read_bio_PrivateKey(in.get(), nullptr, no_passphrase, &encrypted));
  ERR_clear_error();
  if (key) return key;
  return refused(kKeyFlag, file,
                 encrypted ? "is encrypted; the server takes keys without a passphrase only"
                           : "holds no PEM private key");
}

absl::Time expiry_of(const X509& certificate) {
  std::tm time{};
  ASN1_TIME_to_tm(X509_get0_notAfter(&certificate), &time);
  return absl::FromTimeT(timegm(&time));
}

}  // namespace

std::vector<std::filesystem::path> TlsFiles::named() const {
  std::vector<std::filesystem::path> files;
  for (const auto& file : {certificate, key, client_authorities}) {
    if (!file.empty()) files.push_back(file);
  }
  return files;
}

absl::StatusOr<TlsContents> read_tls_files(const TlsFiles& files) {
  auto certificate_pem = read_named_file(kCertificateFlag, files.certificate);
  if (!certificate_pem.ok()) return certificate_pem.status();
  auto key_pem = read_named_file(kKeyFlag, files.key);
  if (!key_pem.ok()) return key_pem.status();
  const auto certificate =
      parse_certificates(kCertificateFlag, files.certificate, *certificate_pem);
  if (!certificate.ok()) return certificate.status();
  const auto key = parse_key(files.key, *key_pem);
  if (!key.ok()) return key.status();
  const bool pair = X509_check_private_key(certificate->get(), key->get()) == 1;
  ERR_clear_error();
  if (!pair) {
    return refused(kKeyFlag, files.key,
                   absl::StrCat("is not the key of the first certificate in ", kCertificateFlag,
                                " ", files.certificate.string()));
  }
  TlsContents contents{.certificate = *std::move(certificate_pem),
                       .key = *std::move(key_pem),
                       .expiry = expiry_of(**certificate)};
  if (files.client_authorities.empty()) return contents;
  auto authorities = read_named_file(kClientAuthoritiesFlag, files.client_authorities);
  if (!authorities.ok()) return authorities.status();
  const auto first =
      parse_certificates(kClientAuthoritiesFlag, files.client_authorities, *authorities);
  if (!first.ok()) return first.status();
  contents.client_authorities = *std::move(authorities);
  return contents;
}

}  // namespace kascade::security
