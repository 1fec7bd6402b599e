#include "client/commands/files.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <system_error>
#include <utility>

namespace kascade::client {
namespace {

absl::Status file_error(std::string_view verb, const std::string& file, int error) {
  const std::string message = fmt::format("cannot {} {}: {}", verb, file, std::strerror(error));
  return error == ENOENT ? absl::NotFoundError(message) : absl::FailedPreconditionError(message);
}

std::string name_of(const std::string& file) { return file == "-" ? "standard input" : file; }

absl::StatusOr<std::string> read_all(const std::string& file) {
  std::FILE* stream = file == "-" ? stdin : std::fopen(file.c_str(), "rb");
  const std::string name = name_of(file);
  if (stream == nullptr) return file_error("read", name, errno);
  std::string text;
  char chunk[65536];
  size_t count = 0;
  while ((count = std::fread(chunk, 1, sizeof chunk, stream)) > 0) text.append(chunk, count);
  const int error = std::ferror(stream) != 0 ? errno : 0;
  if (stream != stdin) std::fclose(stream);
  if (error != 0) return file_error("read", name, error);
  if (!is_utf8(text)) {
    return absl::InvalidArgumentError(fmt::format("{} is not UTF-8 text", name));
  }
  return text;
}

// Flushes the file or folder to disk; returns 0 or the error number.
int synced(const std::filesystem::path& path) {
  const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) return errno;
  const int error = ::fsync(file) == 0 ? 0 : errno;
  ::close(file);
  return error;
}

struct LeadByte {
  int length;         // bytes of the character; 0 if no character starts with this byte
  uint32_t smallest;  // smallest code point that needs this length
};

LeadByte classify(uint8_t lead) {
  if (lead < 0x80) return {1, 0};
  if (lead >= 0xC0 && lead < 0xE0) return {2, 0x80};
  if (lead >= 0xE0 && lead < 0xF0) return {3, 0x800};
  if (lead >= 0xF0 && lead < 0xF8) return {4, 0x10000};
  return {0, 0};
}

}  // namespace

bool is_utf8(std::string_view text) {
  for (size_t i = 0; i < text.size();) {
    const auto first = static_cast<uint8_t>(text[i]);
    const LeadByte lead = classify(first);
    if (lead.length == 0 || i + lead.length > text.size()) return false;
    uint32_t code = lead.length == 1 ? first : first & (0x7F >> lead.length);
    for (int k = 1; k < lead.length; ++k) {
      const auto byte = static_cast<uint8_t>(text[i + k]);
      if ((byte & 0xC0) != 0x80) return false;
      code = code << 6 | (byte & 0x3F);
    }
    const bool surrogate = code >= 0xD800 && code < 0xE000;
    if (code < lead.smallest || code > 0x10FFFF || surrogate) return false;
    i += lead.length;
  }
  return true;
}

size_t place_to_cut(std::string_view text, size_t at) {
  if (at >= text.size()) return text.size();
  const size_t newline = at == 0 ? std::string_view::npos : text.rfind('\n', at - 1);
  if (newline != std::string_view::npos && newline >= at / 2) return newline + 1;
  while (at > 0 && (static_cast<uint8_t>(text[at]) & 0xC0) == 0x80) --at;
  return at;
}

absl::StatusOr<std::string> read_text(const std::string& file) {
  auto text = read_all(file);
  if (text.ok() && text->empty()) {
    return absl::InvalidArgumentError(fmt::format("{} is empty", name_of(file)));
  }
  return text;
}

absl::StatusOr<std::vector<std::string>> read_texts(const std::vector<std::string>& files) {
  std::vector<std::string> texts;
  for (const std::string& file : files) {
    auto text = read_text(file);
    if (!text.ok()) return text.status();
    texts.push_back(*std::move(text));
  }
  return texts;
}

absl::StatusOr<std::string> text_argument(const std::string& argument) {
  if (argument != "-") {
    if (is_utf8(argument)) return argument;
    return absl::InvalidArgumentError("the text is not UTF-8");
  }
  auto text = read_all("-");
  if (text.ok() && text->ends_with('\n')) text->pop_back();
  return text;
}

ResultFile::ResultFile(std::filesystem::path path) : path_(std::move(path)) {
  if (path_.empty()) return;
  temporary_ = path_;
  temporary_ += fmt::format(".{}.partial", getpid());
}

ResultFile::ResultFile(ResultFile&& other) noexcept
    : path_(std::exchange(other.path_, {})), temporary_(std::exchange(other.temporary_, {})) {}

ResultFile::~ResultFile() {
  std::error_code ignored;
  if (!temporary_.empty()) std::filesystem::remove(temporary_, ignored);
}

absl::StatusOr<ResultFile> ResultFile::open(const std::string& path) {
  ResultFile file{path};
  if (path.empty()) return file;
  std::error_code unknown;  // An error is ignored here; opening the file reports it.
  if (std::filesystem::is_directory(path, unknown)) return file_error("write", path, EISDIR);
  if (!std::ofstream(file.temporary_)) return file_error("write", path, errno);
  return file;
}

absl::Status ResultFile::commit(std::string_view content) {
  if (path_.empty()) return absl::OkStatus();
  std::ofstream stream(temporary_, std::ios::binary | std::ios::trunc);
  stream << content;
  stream.close();
  if (!stream) return file_error("write", path_.string(), errno);
  std::error_code error;
  if (const int failed = synced(temporary_)) return file_error("write", path_.string(), failed);
  std::filesystem::rename(temporary_, path_, error);
  if (error) return file_error("write", path_.string(), error.value());
  temporary_.clear();
  // Also flushes the folder, where the file system supports it.
  synced(std::filesystem::absolute(path_, error).parent_path());
  return absl::OkStatus();
}

}  // namespace kascade::client
