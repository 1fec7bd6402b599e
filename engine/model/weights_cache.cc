#include "engine/model/weights_cache.h"

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/model/packed_file_writer.h"
#include "engine/model/packed_weights.h"

namespace kascade {

WeightsCache::WeightsCache(const std::filesystem::path& directory,
                           const std::filesystem::path& model_folder, const ModelConfig& config,
                           const Checkpoint& checkpoint, const Backend& backend) {
  const WeightFormat format = backend.precision().weights;
  auto layout = packed_layout(config, checkpoint, backend);
  if (!layout.ok()) {
    if (!directory.empty()) {
      warn(absl::FailedPreconditionError(
          absl::StrCat(directory.string(), ": ", layout.status().message())));
    }
    return;
  }
  auto source = packed_source(checkpoint);
  if (!source.ok()) {
    warn(source.status());
    return;
  }
  if (!directory.empty()) {
    const std::string name =
        absl::StrCat(std::string(name_of(format)), "-", layout->key().substr(0, 32), ".packed");
    if (read(directory / name, *layout, *source)) return;
    to_write_ = NewFile{directory / name, *layout, *source};
  }
  const size_t warnings = warnings_.size();
  if (read(packed_file_of(model_folder, format), *layout, *source)) {
    if (warnings == 0) to_write_.reset();  // a bad file in the cache is replaced all the same
  } else if (warnings_.size() > warnings) {
    absl::StrAppend(&warnings_.back(), " (kascade-convert --existing ", model_folder.string(),
                    " --pack ", std::string(name_of(format)), " writes it anew)");
  }
}

bool WeightsCache::read(const std::filesystem::path& file, const PackedLayout& layout,
                        const PackedSource& source) {
  auto opened = PackedFile::open(file, layout, source);
  if (opened.ok()) {
    file_.emplace(*std::move(opened));
    outcome_ = absl::StrCat("read ", file.string());
  } else if (!absl::IsNotFound(opened.status())) {
    warn(opened.status());
  }
  return file_.has_value();
}

std::optional<PackedFile> WeightsCache::take() {
  std::optional<PackedFile> file = std::move(file_);
  file_.reset();
  return file;
}

void WeightsCache::keep(const Transformer& transformer) {
  if (!to_write_) return;
  if (auto status = to_write_->write(transformer); !status.ok()) {
    warn(status);
  } else {
    outcome_ = absl::StrCat("wrote ", to_write_->path.string());
  }
}

absl::Status WeightsCache::NewFile::write(const Transformer& transformer) const {
  auto writer = PackedFileWriter::create(path, layout);
  if (!writer.ok()) return writer.status();
  for (const Matrix* matrix : transformer.matrices()) {
    if (auto status = writer->add(matrix->packed()); !status.ok()) return status;
  }
  return writer->finish(source);
}

void WeightsCache::warn(const absl::Status& status) {
  warnings_.push_back(absl::StrCat("weights_cache: ", status.message()));
}

}  // namespace kascade
