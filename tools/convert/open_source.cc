// Recognises the format of a checkpoint by the first bytes of its files.
#include <algorithm>
#include <array>
#include <cstring>
#include <string_view>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "engine/model/file.h"
#include "engine/model/folder_check.h"
#include "tools/convert/source.h"

namespace kascade::convert {
namespace {

namespace fs = std::filesystem;

constexpr uint32_t kLlama2cMagic = 0x616b3432;  // "ak42", in versions 1 and 2
constexpr size_t kHeadBytes = 28;               // llama2.c version 0: seven 32-bit sizes

enum class Kind { kGguf, kLlama2c, kTorchZip, kSafetensors, kText, kUnknown };

// Version 0 of llama2.c has no magic number. It is recognised by seven sizes that are plausible
// together.
bool is_llama2c_v0(std::string_view head) {
  if (head.size() < kHeadBytes) return false;
  std::array<int32_t, 7> sizes{};
  std::memcpy(sizes.data(), head.data(), kHeadBytes);
  const auto [dim, hidden, layers, heads, kv_heads, vocab, context] = sizes;
  const auto within = [](int32_t value, int32_t most) { return value >= 1 && value <= most; };
  return within(dim, 1 << 16) && within(hidden, 1 << 20) && within(layers, 1024) &&
         within(heads, 4096) && within(kv_heads, heads) && vocab != 0 &&
         std::abs(static_cast<int64_t>(vocab)) <= 1 << 24 && within(context, 1 << 24) &&
         dim % heads == 0;
}

Kind kind_of(std::string_view head) {
  uint32_t magic = 0;
  if (head.size() >= sizeof(magic)) std::memcpy(&magic, head.data(), sizeof(magic));
  if (head.starts_with("GGUF") || head.starts_with("FUGG")) return Kind::kGguf;
  if (magic == kLlama2cMagic) return Kind::kLlama2c;
  if (head.starts_with("PK\x03\x04")) return Kind::kTorchZip;
  // A safetensors file starts with the length of its JSON header, which is at most 100 MB, and the
  // header itself.
  if (head.size() > 8 && head[8] == '{' && head.substr(4, 4) == std::string_view("\0\0\0\0", 4)) {
    return Kind::kSafetensors;
  }
  if (is_llama2c_v0(head)) return Kind::kLlama2c;
  return head.starts_with("{") ? Kind::kText : Kind::kUnknown;
}

absl::StatusOr<Kind> kind_of_file(const fs::path& file) {
  const auto opened = RegularFile::open(file);
  if (!opened.ok()) return opened.status();
  std::string head(kHeadBytes, '\0');
  const auto got = opened->read(head.data(), static_cast<int64_t>(head.size()));
  if (!got.ok()) return got.status();
  return kind_of(head.substr(0, static_cast<size_t>(*got)));
}

absl::StatusOr<std::unique_ptr<Source>> open_single_file(const fs::path& file,
                                                         const SourceOptions& options) {
  if (const auto pointer = lfs_pointer_fault(file)) return absl::InvalidArgumentError(*pointer);
  const auto kind = kind_of_file(file);
  if (!kind.ok()) return kind.status();
  switch (*kind) {
    case Kind::kGguf:
      return open_gguf(file, options);
    case Kind::kLlama2c:
      return open_llama2c(file, options);
    case Kind::kTorchZip:
    case Kind::kSafetensors:
    case Kind::kText:
      return absl::InvalidArgumentError(absl::StrCat(
          file.string(), ": is a part of a checkpoint; give the folder that holds it: ",
          file.parent_path().string()));
    case Kind::kUnknown:
      break;
  }
  return absl::InvalidArgumentError(absl::StrCat(
      file.string(), ": expected a GGUF or llama2.c file, or a folder of Meta or Hugging Face"));
}

struct FolderContents {
  bool params_json = false;
  bool config_json = false;
  bool consolidated = false;  // a file with the name that Meta gives its PyTorch files
  bool safetensors = false;
  bool pytorch_bin = false;              // pytorch_model*.bin, or its index
  std::vector<fs::path> single_files{};  // GGUF and llama2.c files
};

absl::StatusOr<FolderContents> list(const fs::path& folder) {
  FolderContents contents;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder, error)) {
    std::error_code ignored;
    if (!entry.is_regular_file(ignored)) continue;
    const std::string name = entry.path().filename().string();
    contents.params_json |= name == "params.json";
    contents.config_json |= name == "config.json";
    const auto kind = kind_of_file(entry.path());
    if (!kind.ok()) return kind.status();
    contents.consolidated |= *kind == Kind::kTorchZip && name.starts_with("consolidated");
    contents.safetensors |= *kind == Kind::kSafetensors;
    contents.pytorch_bin |= name.starts_with("pytorch_model");
    if (*kind == Kind::kGguf || *kind == Kind::kLlama2c) {
      contents.single_files.push_back(entry.path());
    }
  }
  if (error) {
    return absl::ErrnoToStatus(error.value(), absl::StrCat(folder.string(), ": cannot list"));
  }
  return contents;
}

// What to say of a folder in which no checkpoint was found.
absl::Status nothing_in(const fs::path& folder) {
  for (const auto& known : {hub_cache_fault(folder), incomplete_download_fault(folder)}) {
    if (known) return absl::InvalidArgumentError(*known);
  }
  return absl::InvalidArgumentError(absl::StrCat(
      folder.string(), ": expected params.json with consolidated.NN.pth (Meta), config.json with ",
      "*.safetensors or pytorch_model*.bin (Hugging Face), a GGUF or a llama2.c file; found none"));
}

// The only GGUF or llama2.c file of a folder.
absl::StatusOr<std::unique_ptr<Source>> open_only_file(const fs::path& folder,
                                                       std::vector<fs::path> files,
                                                       const SourceOptions& options) {
  if (files.empty()) return nothing_in(folder);
  std::ranges::sort(files);
  // Of the parts of one model, the first one says so.
  const bool are_parts = files.front().string().find("-00001-of-") != std::string::npos;
  if (files.size() == 1 || are_parts) return open_single_file(files.front(), options);
  return absl::InvalidArgumentError(absl::StrCat(folder.string(), ": holds ", files.size(),
                                                 " GGUF or llama2.c files; name one of them"));
}

absl::StatusOr<std::unique_ptr<Source>> open_folder(const fs::path& folder,
                                                    const SourceOptions& options) {
  if (const auto pointer = lfs_pointer_in(folder)) return absl::InvalidArgumentError(*pointer);
  const auto contents = list(folder);
  if (!contents.ok()) return contents.status();
  // The download of a Llama from Hugging Face may hold both formats; its safetensors are complete.
  if (contents->config_json && contents->safetensors) return open_hugging_face(folder, options);
  if (contents->params_json && (contents->consolidated || !contents->config_json)) {
    return open_meta(folder, options);
  }
  if (contents->config_json && contents->pytorch_bin) return open_hugging_face_bin(folder, options);
  // Folders of GGUF files often have the config.json of the model that they were made from.
  if (contents->config_json && contents->single_files.empty()) {
    if (const auto part = incomplete_download_fault(folder)) {
      return absl::InvalidArgumentError(*part);
    }
    return open_hugging_face(folder, options);  // which says what is missing
  }
  return open_only_file(folder, contents->single_files, options);
}

}  // namespace

absl::StatusOr<std::unique_ptr<Source>> open_source(const fs::path& path,
                                                    const SourceOptions& options) {
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  if (status.type() == fs::file_type::not_found) {
    return absl::NotFoundError(absl::StrCat(path.string(), ": no such file or folder"));
  }
  return fs::is_directory(status) ? open_folder(path, options) : open_single_file(path, options);
}

}  // namespace kascade::convert
