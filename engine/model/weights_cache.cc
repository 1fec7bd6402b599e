#include "engine/model/weights_cache.h"

#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/base/digest.h"

namespace kascade {
namespace {

// The checkpoint's digest covers both ends of each tensor. A change between them shows in the
// modification time of the file.
absl::StatusOr<std::string> key_of(const Checkpoint& checkpoint,
                                   const std::vector<PackedMatrix>& matrices) {
  Sha256 sha;
  sha.add(checkpoint.weights_digest);
  if (checkpoint.files != nullptr) {
    for (const auto& path : checkpoint.files->paths()) {
      std::error_code error;
      const auto bytes = std::filesystem::file_size(path, error);
      const auto changed = std::filesystem::last_write_time(path, error);
      if (error) {
        return absl::ErrnoToStatus(error.value(), absl::StrCat(path.string(), ": cannot stat"));
      }
      sha.add(absl::StrCat("\n", path.filename().string(), " ", bytes, " ",
                           changed.time_since_epoch().count()));
    }
  }
  for (const PackedMatrix& matrix : matrices) {
    sha.add(absl::StrCat("\n", matrix.name, " ", matrix.form, " ", matrix.out_features, " ",
                         matrix.in_features));
  }
  return sha.hex();
}

}  // namespace

absl::StatusOr<WeightsCache::Place> WeightsCache::find_place(const std::filesystem::path& directory,
                                                             const ModelConfig& config,
                                                             const Checkpoint& checkpoint,
                                                             const Backend& backend) {
  const std::string format(name_of(backend.precision().weights));
  std::vector<PackedMatrix> matrices;
  for (const MatrixSpec& spec : matrix_specs(config)) {
    const auto form = backend.packed_form(spec.out_features, spec.in_features, spec.use);
    if (!form) {
      return absl::FailedPreconditionError(
          absl::StrCat(directory.string(), ": ", format, " weights of backend ",
                       std::string(backend.info().name), " cannot be kept in a file"));
    }
    matrices.push_back(
        {spec.name, std::string(form->name), spec.out_features, spec.in_features, form->bytes});
  }
  auto key = key_of(checkpoint, matrices);
  if (!key.ok()) return key.status();
  std::filesystem::path file = directory / absl::StrCat(format, "-", key->substr(0, 32), ".packed");
  return Place{std::move(file), PackedLayout(*std::move(key), std::move(matrices))};
}

WeightsCache::WeightsCache(const std::filesystem::path& directory, const ModelConfig& config,
                           const Checkpoint& checkpoint, const Backend& backend) {
  if (directory.empty()) return;
  auto place = find_place(directory, config, checkpoint, backend);
  if (!place.ok()) {
    warn(place.status());
    return;
  }
  auto file = PackedFile::open(place->file, place->layout);
  if (file.ok()) {
    file_.emplace(*std::move(file));
    read_ = true;
    outcome_ = absl::StrCat("read ", place->file.string());
  } else if (!absl::IsNotFound(file.status())) {
    warn(file.status());
  }
  place_ = *std::move(place);
}

std::optional<PackedFile> WeightsCache::take() {
  std::optional<PackedFile> file = std::move(file_);
  file_.reset();
  return file;
}

void WeightsCache::keep(const Transformer& transformer) {
  if (!place_ || read_) return;
  std::vector<std::span<const std::byte>> contents;
  for (const Matrix* matrix : transformer.matrices()) contents.push_back(matrix->packed());
  if (auto status = write_packed_file(place_->file, place_->layout, contents); !status.ok()) {
    warn(status);
  } else {
    outcome_ = absl::StrCat("wrote ", place_->file.string());
  }
}

void WeightsCache::warn(const absl::Status& status) {
  warnings_.push_back(absl::StrCat("weights_cache: ", status.message()));
}

}  // namespace kascade
