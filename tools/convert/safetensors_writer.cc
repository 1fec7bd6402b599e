#include "tools/convert/safetensors_writer.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/check.h"
#include "engine/model/safetensors.h"
#include "nlohmann/json.hpp"

namespace kascade::convert {
namespace {

absl::Status system_error(const std::filesystem::path& file, const std::string& action) {
  return absl::ErrnoToStatus(errno, absl::StrCat(file.string(), ": cannot ", action));
}

absl::StatusOr<int> create_file(const std::filesystem::path& file) {
  const int descriptor = open(file.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
  if (descriptor < 0) return system_error(file, "create");
  return descriptor;
}

absl::Status write_all(const std::filesystem::path& file, int descriptor,
                       std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t written = ::write(descriptor, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return system_error(file, absl::StrCat("write ", bytes.size(), " bytes"));
    bytes = bytes.subspan(static_cast<size_t>(written));
  }
  return absl::OkStatus();
}

absl::Status sync_and_close(const std::filesystem::path& file, int descriptor) {
  absl::Status status;
  if (fsync(descriptor) != 0) status = system_error(file, "sync");
  if (close(descriptor) != 0 && status.ok()) status = system_error(file, "close");
  return status;
}

}  // namespace

std::string safetensors_header(std::span<const SourceTensor> tensors) {
  nlohmann::ordered_json header = {{"__metadata__", {{"format", "pt"}}}};
  int64_t offset = 0;
  for (const SourceTensor& tensor : tensors) {
    header[tensor.name] = {{"dtype", stored_name(tensor.dtype)},
                           {"shape", tensor.shape},
                           {"data_offsets", {offset, offset + tensor.bytes()}}};
    offset += tensor.bytes();
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');
  const uint64_t length = text.size();
  return std::string(reinterpret_cast<const char*>(&length), sizeof(length)) + text;
}

absl::Status write_file(const std::filesystem::path& file, std::string_view content) {
  const auto descriptor = create_file(file);
  if (!descriptor.ok()) return descriptor.status();
  absl::Status status = write_all(file, *descriptor, std::as_bytes(std::span(content)));
  status.Update(sync_and_close(file, *descriptor));
  return status;
}

SafetensorsWriter::SafetensorsWriter(std::filesystem::path file, int descriptor)
    : file_(std::move(file)), descriptor_(descriptor) {}

SafetensorsWriter::~SafetensorsWriter() {
  if (descriptor_ >= 0) close(descriptor_);
}

absl::StatusOr<std::unique_ptr<SafetensorsWriter>> SafetensorsWriter::create(
    const std::filesystem::path& file, std::span<const SourceTensor> tensors) {
  const auto descriptor = create_file(file);
  if (!descriptor.ok()) return descriptor.status();
  std::unique_ptr<SafetensorsWriter> writer(new SafetensorsWriter(file, *descriptor));
  const std::string header = safetensors_header(tensors);
  if (auto status = writer->write(std::as_bytes(std::span(header))); !status.ok()) return status;
  for (const SourceTensor& tensor : tensors) writer->missing_bytes_ += tensor.bytes();
  return writer;
}

absl::Status SafetensorsWriter::write(std::span<const std::byte> bytes) {
  digest_.add(bytes.data(), static_cast<int64_t>(bytes.size()));
  return write_all(file_, descriptor_, bytes);
}

absl::Status SafetensorsWriter::append(std::span<const std::byte> bytes) {
  missing_bytes_ -= static_cast<int64_t>(bytes.size());
  KASCADE_CHECK(missing_bytes_ >= 0);
  return write(bytes);
}

absl::StatusOr<std::string> SafetensorsWriter::finish() {
  KASCADE_CHECK(missing_bytes_ == 0);
  const absl::Status status = sync_and_close(file_, std::exchange(descriptor_, -1));
  if (!status.ok()) return status;
  return digest_.hex();
}

}  // namespace kascade::convert
