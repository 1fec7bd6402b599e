#include "engine/model/packed_weights.h"

#include <array>
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/base/check.h"
#include "engine/base/checksum.h"
#include "engine/base/digest.h"
#include "engine/model/matrices.h"
#include "engine/model/packed_file_writer.h"

namespace kascade {
namespace {

namespace fs = std::filesystem;

// Appends checksums from which the bytes can be told: that of the whole runs of 64 bytes, and that
// of the rest, filled up with zeros.
void append_checksums(std::span<const std::byte> bytes, std::vector<uint64_t>& sums) {
  std::array<std::byte, 64> rest{};
  const size_t whole = bytes.size() / rest.size() * rest.size();
  sums.push_back(checksum(bytes.first(whole)));
  if (whole == bytes.size()) return;
  std::memcpy(rest.data(), bytes.data() + whole, bytes.size() - whole);
  sums.push_back(checksum(rest));
}

uint64_t checksum_of_tensors(const Safetensors& files) {
  std::vector<uint64_t> sums;
  for (const auto& [name, tensor] : files.tensors()) {
    if (is_ignored_tensor(name)) continue;
    append_checksums({tensor.data, static_cast<size_t>(tensor.bytes)}, sums);
    files.release(tensor.data, tensor.bytes);
  }
  sums.resize((sums.size() + 7) / 8 * 8);  // a multiple of 64 bytes
  return checksum(std::as_bytes(std::span(sums)));
}

std::string key_of(const Checkpoint& checkpoint, const std::vector<PackedMatrix>& matrices) {
  Sha256 sha;
  sha.add(checkpoint.weights_digest);
  for (const PackedMatrix& matrix : matrices) {
    sha.add(absl::StrCat("\n", matrix.name, " ", matrix.form, " ", matrix.out_features, " ",
                         matrix.in_features));
  }
  return sha.hex();
}

}  // namespace

fs::path packed_file_of(const fs::path& model_folder, WeightFormat format) {
  return model_folder / "packed" / absl::StrCat(std::string(name_of(format)), ".packed");
}

absl::StatusOr<PackedLayout> packed_layout(const ModelConfig& config, const Checkpoint& checkpoint,
                                           const Backend& backend) {
  std::vector<PackedMatrix> matrices;
  const std::vector<std::vector<Tensor>> parts = matrix_parts(checkpoint);
  for (const MatrixSpec& spec : matrix_specs(config)) {
    const auto form = backend.packed_form(parts[matrices.size()], spec.use);
    if (!form) {
      return absl::FailedPreconditionError(
          absl::StrCat(std::string(name_of(backend.precision().weights)), " weights of backend ",
                       std::string(backend.info().name), " cannot be kept in a file"));
    }
    matrices.push_back({spec.name, form->name, spec.out_features, spec.in_features, form->bytes});
  }
  std::string key = key_of(checkpoint, matrices);
  return PackedLayout(std::move(key), std::move(matrices));
}

absl::StatusOr<PackedSource> packed_source(const Checkpoint& checkpoint) {
  KASCADE_CHECK(checkpoint.files != nullptr);
  const Safetensors& files = *checkpoint.files;
  Sha256 times;
  for (const fs::path& path : files.paths()) {
    std::error_code error;
    const auto bytes = fs::file_size(path, error);
    const auto changed = fs::last_write_time(path, error);
    if (error) {
      return absl::ErrnoToStatus(error.value(), absl::StrCat(path.string(), ": cannot stat"));
    }
    times.add(absl::StrCat(path.filename().string(), " ", bytes, " ",
                           changed.time_since_epoch().count(), "\n"));
  }
  return PackedSource{.times = times.hex(),
                      .checksum = [&files] { return checksum_of_tensors(files); }};
}

absl::StatusOr<int64_t> write_packed_weights(
    const fs::path& file, const ModelConfig& config, const Checkpoint& checkpoint, Backend& backend,
    const std::function<absl::Status(const PackProgress&)>& report) {
  auto layout = packed_layout(config, checkpoint, backend);
  if (!layout.ok()) return layout.status();
  auto source = packed_source(checkpoint);
  if (!source.ok()) return source.status();
  auto writer = PackedFileWriter::create(file, *layout);
  if (!writer.ok()) return writer.status();
  const std::vector<MatrixSpec> specs = matrix_specs(config);
  const std::vector<std::vector<Tensor>> parts = matrix_parts(checkpoint);
  for (size_t i = 0; i < specs.size(); ++i) {
    auto status = report({.bytes_done = layout->offset(i), .bytes_total = layout->file_bytes()});
    if (!status.ok()) return status;
    status = writer->add(backend.pack(parts[i], specs[i].use)->packed());
    if (!status.ok()) return status;
    for (const Tensor& part : parts[i]) checkpoint.release(part);
  }
  if (auto status = writer->finish(*source); !status.ok()) return status;
  return layout->file_bytes();
}

}  // namespace kascade
