#include "tools/convert/convert.h"

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/base/check.h"
#include "engine/model/checkpoint.h"
#include "engine/model/file.h"
#include "tools/convert/config_json.h"
#include "tools/convert/conversion_record.h"
#include "tools/convert/destination.h"
#include "tools/convert/output_plan.h"
#include "tools/convert/safetensors_writer.h"
#include "tools/convert/value_cast.h"

namespace kascade::convert {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kPieceElements = 1 << 20;
// disk space reserved for the tokenizer and the configuration
constexpr int64_t kSideFileBytes = 64 << 20;

// Writes tensors to files one at a time, with a single buffer of the size of the largest tensor.
class TensorWriter {
 public:
  TensorWriter(Source& source, const ConvertOptions& options,
               const std::function<void(const ConvertProgress&)>& report, int64_t total_bytes)
      : source_(source), options_(options), report_(report) {
    progress_.bytes_total = total_bytes;
    int64_t largest = 0;
    for (const SourceTensor& tensor : source.tensors()) largest = std::max(largest, tensor.bytes());
    buffer_ = std::make_unique_for_overwrite<std::byte[]>(static_cast<size_t>(largest));
  }

  // Writes one file and returns its digest.
  absl::StatusOr<std::string> write(const fs::path& path, const OutputFile& file) {
    auto writer = SafetensorsWriter::create(path, file.tensors);
    if (!writer.ok()) return writer.status();
    for (size_t i = 0; i < file.sources.size(); ++i) {
      const auto status = write_tensor(file.sources[i], file.tensors[i].dtype, **writer);
      if (!status.ok()) return status;
    }
    return (*writer)->finish();
  }

 private:
  absl::Status write_tensor(size_t index, DType dtype, SafetensorsWriter& writer) {
    const SourceTensor& tensor = source_.tensors()[index];
    progress_.tensor = tensor.name;
    const std::span<std::byte> values(buffer_.get(), static_cast<size_t>(tensor.bytes()));
    if (auto status = source_.read(index, values); !status.ok()) return status;
    // Pieces consist of whole blocks.
    const int64_t unit = block_size_of(tensor.dtype).inputs;
    const int64_t unit_bytes = tensor.row_bytes() * unit / tensor.cols();
    const int64_t piece_elements = kPieceElements / unit * unit;
    for (int64_t begin = 0; begin < tensor.elements(); begin += piece_elements) {
      if (options_.cancelled && options_.cancelled->load()) {
        return absl::CancelledError("interrupted; nothing was written");
      }
      const int64_t elements = std::min(piece_elements, tensor.elements() - begin);
      const auto piece = values.subspan(static_cast<size_t>(begin / unit * unit_bytes),
                                        static_cast<size_t>(elements / unit * unit_bytes));
      if (auto status = write_piece(tensor, begin, piece, dtype, writer); !status.ok()) {
        return status;
      }
    }
    return absl::OkStatus();
  }

  absl::Status write_piece(const SourceTensor& tensor, int64_t begin,
                           std::span<const std::byte> piece, DType dtype,
                           SafetensorsWriter& writer) {
    std::span<const std::byte> values = piece, out = piece;
    DType value_type = tensor.dtype;
    std::vector<std::byte> dequantized_values;
    if (has_blocks(tensor.dtype)) {
      dequantized_values = dequantized(piece, tensor.dtype);
      values = dequantized_values;
      value_type = DType::kF32;
    }
    if (dtype != tensor.dtype) {
      const size_t elements = values.size() / static_cast<size_t>(size_of(value_type));
      converted_.resize(elements * static_cast<size_t>(size_of(dtype)));
      cast_values(values, value_type, converted_, dtype);
      out = converted_;
    }
    const bool kept = dtype == tensor.dtype;
    if (const auto bad = first_not_finite(kept ? values : out, kept ? value_type : dtype)) {
      return absl::InvalidArgumentError(absl::StrCat(
          "tensor ", tensor.name, ": element ", begin + *bad, ": expected a finite ",
          std::string(name_of(dtype)), ", found ", value_at(values, value_type, *bad)));
    }
    progress_.bytes_done += static_cast<int64_t>(out.size());
    report_(progress_);
    return writer.append(out);
  }

  Source& source_;
  const ConvertOptions& options_;
  const std::function<void(const ConvertProgress&)>& report_;
  ConvertProgress progress_;
  std::unique_ptr<std::byte[]> buffer_;
  std::vector<std::byte> converted_;
};

int64_t bytes_of(const std::vector<OutputFile>& files) {
  int64_t bytes = 0;
  for (const OutputFile& file : files) {
    for (const SourceTensor& tensor : file.tensors) bytes += tensor.bytes();
  }
  return bytes;
}

absl::Status write_side_file(const fs::path& folder, const SideFile& file) {
  if (file.copy_of.empty()) return write_file(folder / file.name, file.content);
  const auto content = read_file(file.copy_of, kSideFileBytes);
  return content.ok() ? write_file(folder / file.name, *content) : content.status();
}

absl::Status write_config(const Source& source, const fs::path& folder, DType dtype) {
  std::string text = to_config_json(source.config(), dtype);
  if (const std::string original = source.config_json(); !original.empty()) {
    auto edited = with_dtype(original, dtype);
    if (!edited.ok()) return edited.status();
    text = *std::move(edited);
  }
  return write_file(folder / "config.json", text);
}

absl::Status write_small_files(const Source& source, const std::vector<OutputFile>& files,
                               const fs::path& folder, DType dtype) {
  if (auto status = write_config(source, folder, dtype); !status.ok()) return status;
  for (const SideFile& file : source.side_files()) {
    if (auto status = write_side_file(folder, file); !status.ok()) return status;
  }
  const std::string index = index_json(files);
  return index.empty() ? absl::OkStatus()
                       : write_file(folder / "model.safetensors.index.json", index);
}

// Finally, the server's own reader must accept the folder.
absl::Status check_loads(const fs::path& folder) {
  const auto config = load_config(folder);
  if (!config.ok()) return config.status();
  return open_checkpoint(folder, *config).status();
}

}  // namespace

absl::Status convert(Source& source, const fs::path& source_path, const fs::path& destination,
                     const ConvertOptions& options,
                     const std::function<void(const ConvertProgress&)>& report) {
  KASCADE_CHECK(!source.tensors().empty());
  const std::vector<OutputFile> files = plan_output(source, options);
  const int64_t bytes = bytes_of(files);
  auto target = Destination::create(destination, options.force, bytes + kSideFileBytes);
  if (!target.ok()) return target.status();
  const fs::path& folder = (*target)->partial();

  auto record = ConversionRecord::begin(source, source_path);
  if (!record.ok()) return record.status();
  TensorWriter writer(source, options, report, bytes);
  for (const OutputFile& file : files) {
    const auto digest = writer.write(folder / file.name, file);
    if (!digest.ok()) return digest.status();
    record->add_output(file.name, *digest);
  }
  const auto& tensors = files.front().tensors;
  if (auto status = write_small_files(source, files, folder, tensors.front().dtype); !status.ok()) {
    return status;
  }
  if (auto status = check_loads(folder); !status.ok()) return status;
  if (auto status = write_file(folder / kRecordFile, record->json()); !status.ok()) return status;
  if (options.add_to_folder) {
    if (auto status = options.add_to_folder(folder); !status.ok()) return status;
  }
  return (*target)->commit();
}

}  // namespace kascade::convert
