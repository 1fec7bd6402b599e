#include "tests/support/certificates.h"

#include <openssl/bio.h>
#include <openssl/ec.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>

#include <functional>

#include "absl/time/clock.h"
#include "engine/base/check.h"

namespace kascade::testing {
namespace {

struct Free {
  void operator()(BIO* bio) const { BIO_free(bio); }
  void operator()(X509* certificate) const { X509_free(certificate); }
  void operator()(EVP_PKEY* key) const { EVP_PKEY_free(key); }
};
using Certificate = std::unique_ptr<X509, Free>;
using Key = std::unique_ptr<EVP_PKEY, Free>;

std::string written(const std::function<int(BIO*)>& write) {
  const std::unique_ptr<BIO, Free> out(BIO_new(BIO_s_mem()));
  KASCADE_CHECK(write(out.get()) == 1);
  char* data = nullptr;
  const long size = BIO_get_mem_data(out.get(), &data);
  return {data, static_cast<size_t>(size)};
}

std::string pem_of(X509& certificate) {
  return written([&](BIO* out) { return PEM_write_bio_X509(out, &certificate); });
}

std::string pem_of(EVP_PKEY& key) {
  return written([&](BIO* out) {
    return PEM_write_bio_PrivateKey(out, &key, nullptr, nullptr, 0, nullptr, nullptr);
  });
}

Certificate unsigned_certificate(const std::string& name, EVP_PKEY& key, absl::Duration lifetime) {
  static long serial = 0;
  Certificate certificate(X509_new());
  X509_set_version(certificate.get(), X509_VERSION_3);
  ASN1_INTEGER_set(X509_get_serialNumber(certificate.get()), ++serial);
  X509_NAME* subject = X509_get_subject_name(certificate.get());
  X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_UTF8,
                             reinterpret_cast<const unsigned char*>(name.c_str()), -1, -1, 0);
  ASN1_TIME_set(X509_getm_notBefore(certificate.get()),
                absl::ToTimeT(absl::Now() - absl::Hours(24)));
  ASN1_TIME_set(X509_getm_notAfter(certificate.get()), absl::ToTimeT(absl::Now() + lifetime));
  KASCADE_CHECK(X509_set_pubkey(certificate.get(), &key) == 1);
  return certificate;
}

void add_extension(X509& certificate, int kind, const char* value) {
  X509_EXTENSION* extension = X509V3_EXT_conf_nid(nullptr, nullptr, kind, value);
  KASCADE_CHECK(extension != nullptr && X509_add_ext(&certificate, extension, -1) == 1);
  X509_EXTENSION_free(extension);
}

}  // namespace

struct Authority::Parts {
  Key key{EVP_EC_gen("P-256")};
  Certificate certificate{};
};

Authority::Authority(const std::string& name) : parts_(std::make_unique<Parts>()) {
  parts_->certificate = unsigned_certificate(name, *parts_->key, absl::Hours(24));
  X509& certificate = *parts_->certificate;
  X509_set_issuer_name(&certificate, X509_get_subject_name(&certificate));
  add_extension(certificate, NID_basic_constraints, "critical,CA:TRUE");
  KASCADE_CHECK(X509_sign(&certificate, parts_->key.get(), EVP_sha256()) > 0);
}

Authority::~Authority() = default;

std::string Authority::certificate() const { return pem_of(*parts_->certificate); }

Identity Authority::issue(const std::string& name, absl::Duration lifetime) const {
  const Key key(EVP_EC_gen("P-256"));
  const Certificate certificate = unsigned_certificate(name, *key, lifetime);
  X509_set_issuer_name(certificate.get(), X509_get_subject_name(parts_->certificate.get()));
  add_extension(*certificate, NID_subject_alt_name, "DNS:localhost,IP:127.0.0.1");
  KASCADE_CHECK(X509_sign(certificate.get(), parts_->key.get(), EVP_sha256()) > 0);
  return {.certificate = pem_of(*certificate), .key = pem_of(*key)};
}

std::string encrypted_key(const Identity& identity) {
  const std::unique_ptr<BIO, Free> in(
      BIO_new_mem_buf(identity.key.data(), static_cast<int>(identity.key.size())));
  const Key key(PEM_read_bio_PrivateKey(in.get(), nullptr, nullptr, nullptr));
  return written([&](BIO* out) {
    const unsigned char passphrase[] = {'p', 'a', 's', 's'};
    return PEM_write_bio_PKCS8PrivateKey(out, key.get(), EVP_aes_256_cbc(),
                                         reinterpret_cast<const char*>(passphrase),
                                         sizeof(passphrase), nullptr, nullptr);
  });
}

}  // namespace kascade::testing
