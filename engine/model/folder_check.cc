#include "engine/model/folder_check.h"

#include <algorithm>
#include <string_view>
#include <system_error>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "engine/model/file.h"

namespace kascade {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kPointerStart = "version https://git-lfs.github.com/spec/";
constexpr int64_t kMaxPointerBytes = 1024;  // as Git LFS itself limits it
constexpr char kConfig[] = "config.json";

bool is_file(const fs::path& path) {
  std::error_code ignored;
  return fs::is_regular_file(path, ignored);
}

bool is_folder(const fs::path& path) {
  std::error_code ignored;
  return fs::is_directory(path, ignored);
}

// The names of what is in the folder, sorted; none if it cannot be listed.
std::vector<std::string> names_in(const fs::path& folder) {
  std::vector<std::string> names;
  std::error_code error;
  for (fs::directory_iterator entry(folder, error), end; !error && entry != end;
       entry.increment(error)) {
    names.push_back(entry->path().filename().string());
  }
  std::ranges::sort(names);
  return names;
}

// The first name that starts and ends so; empty if there is none.
std::string first_named(const std::vector<std::string>& names, std::string_view start,
                        std::string_view end) {
  const auto found = std::ranges::find_if(names, [&](const std::string& name) {
    return name.starts_with(start) && name.ends_with(end);
  });
  return found == names.end() ? std::string() : *found;
}

std::string convert_hint(const fs::path& source) {
  return absl::StrCat("make a model folder of it with `kascade-convert ", source.string(),
                      " DEST`, and name DEST");
}

absl::Status fault(const fs::path& path, const std::string& what) {
  return absl::InvalidArgumentError(absl::StrCat(path.string(), ": ", what));
}

// "folder/model" where the user wrote "folder/model/" or "folder/./model".
fs::path parent_of(const fs::path& file) {
  return file.has_parent_path() ? file.parent_path() : fs::path(".");
}

// A name inside `folder` of a subfolder that is a model; empty if there is none.
std::string model_below(const fs::path& folder, const std::vector<std::string>& names) {
  const auto found = std::ranges::find_if(
      names, [&](const std::string& name) { return is_file(folder / name / kConfig); });
  return found == names.end() ? std::string() : *found;
}

absl::Status check_single_file(const fs::path& file) {
  if (const auto pointer = lfs_pointer_fault(file)) return absl::InvalidArgumentError(*pointer);
  const std::string name = file.filename().string();
  std::string start(4, '\0');
  const auto opened = RegularFile::open(file);
  if (!opened.ok()) return opened.status();
  if (const auto got = opened->read(start.data(), 4); !got.ok()) return got.status();
  if (start == "GGUF") return fault(file, "is a GGUF file; " + convert_hint(file));
  if (name.ends_with(".safetensors") || name.ends_with(".json")) {
    return fault(file, absl::StrCat("is a file of a model folder; name the folder, ",
                                    parent_of(file).string()));
  }
  if (name.ends_with(".pth") || name.starts_with("pytorch_model")) {
    return fault(file, "is a part of a PyTorch checkpoint; " + convert_hint(parent_of(file)));
  }
  return fault(file,
               "is a file; a model is a folder with config.json, model.safetensors and "
               "tokenizer.json (kascade-convert makes one of a GGUF or llama2.c file)");
}

// What the folder holds in place of safetensors, and how to convert it; empty if nothing is known.
std::string convertible(const fs::path& folder, const std::vector<std::string>& names) {
  const bool meta = std::ranges::count(names, "params.json") > 0;
  if (meta || !first_named(names, "consolidated.", ".pth").empty()) {
    return "holds a checkpoint of Meta (params.json, consolidated.*.pth); " + convert_hint(folder);
  }
  if (!first_named(names, "pytorch_model", "").empty()) {
    return "holds PyTorch files (pytorch_model*.bin) and no safetensors; " + convert_hint(folder);
  }
  if (const std::string gguf = first_named(names, "", ".gguf"); !gguf.empty()) {
    return "holds a GGUF file and no safetensors; " + convert_hint(folder / gguf);
  }
  return "";
}

absl::Status no_config(const fs::path& folder, const std::vector<std::string>& names) {
  std::error_code ignored;
  if (fs::is_symlink(folder / kConfig, ignored)) {
    return fault(folder / kConfig,
                 absl::StrCat("points to ", fs::read_symlink(folder / kConfig, ignored).string(),
                              ", which is missing; download the model again"));
  }
  if (names.empty()) return fault(folder, "is an empty folder");
  if (const auto hub = hub_cache_fault(folder)) return absl::InvalidArgumentError(*hub);
  if (const auto part = incomplete_download_fault(folder)) {
    return absl::InvalidArgumentError(*part);
  }
  const std::string other = convertible(folder, names);
  if (!other.empty()) return fault(folder, other);
  if (std::ranges::count(names, "adapter_config.json") > 0) {
    return fault(folder, "is an adapter (adapter_config.json); merge it into its base model first");
  }
  const std::string below = model_below(folder, names);
  return absl::NotFoundError(absl::StrCat(
      folder.string(), ": has no config.json; a model is a folder with config.json, ",
      "model.safetensors and tokenizer.json",
      below.empty() ? "" : absl::StrCat("; there is one in ", (folder / below).string())));
}

absl::Status no_weights(const fs::path& folder, const std::vector<std::string>& names) {
  if (const auto part = incomplete_download_fault(folder)) {
    return absl::InvalidArgumentError(*part);
  }
  if (!first_named(names, "model-", ".safetensors").empty()) {
    return fault(folder,
                 "holds shards of safetensors, but not model.safetensors.index.json, which lists "
                 "them; download it too");
  }
  const std::string other = convertible(folder, names);
  if (!other.empty()) return fault(folder, other);
  const std::string file = first_named(names, "", ".safetensors");
  if (file.empty()) return absl::OkStatus();
  return fault(folder, absl::StrCat("holds ", file, ", but not model.safetensors or an index; ",
                                    "rename it if it is the whole model"));
}

}  // namespace

std::optional<std::string> lfs_pointer_fault(const fs::path& file) {
  if (!is_file(file)) return std::nullopt;
  const auto text = read_file(file, kMaxPointerBytes);
  if (!text.ok() || !text->starts_with(kPointerStart)) return std::nullopt;
  return absl::StrCat(file.string(),
                      ": is a pointer of Git LFS, not the file itself; run `git lfs pull` in ",
                      parent_of(file).string());
}

std::optional<std::string> lfs_pointer_in(const fs::path& folder) {
  for (const std::string& name : names_in(folder)) {
    constexpr std::string_view kEnds[] = {".json", ".safetensors", ".bin",  ".pth",
                                          ".gguf", ".model",       ".jinja"};
    const bool read =
        std::ranges::any_of(kEnds, [&](std::string_view end) { return name.ends_with(end); });
    if (!read) continue;
    if (auto fault = lfs_pointer_fault(folder / name)) return fault;
  }
  return std::nullopt;
}

std::optional<std::string> hub_cache_fault(const fs::path& folder) {
  const auto names = names_in(folder);
  std::string cached;
  if (is_folder(folder / "snapshots")) {
    const auto snapshots = names_in(folder / "snapshots");
    const std::string found = model_below(folder / "snapshots", snapshots);
    const std::string snapshot = found.empty() && !snapshots.empty() ? snapshots.front() : found;
    return absl::StrCat(folder.string(), ": is a folder of the Hugging Face cache; name ",
                        snapshot.empty() ? "one of its snapshots, of which it has none: download "
                                           "the model again"
                                         : (folder / "snapshots" / snapshot).string());
  }
  if (folder.filename() == "snapshots" && !names.empty()) {
    cached = model_below(folder, names);
    if (cached.empty()) cached = names.front();
  }
  if (cached.empty()) cached = first_named(names, "models--", "");
  if (cached.empty()) return std::nullopt;
  return absl::StrCat(folder.string(),
                      ": is the Hugging Face cache; name the snapshot of a model, ",
                      "a folder like ",
                      cached.starts_with("models--") ? (folder / cached / "snapshots/…").string()
                                                     : (folder / cached).string());
}

std::optional<std::string> incomplete_download_fault(const fs::path& folder) {
  for (const char* place : {"", ".cache/huggingface/download"}) {
    const fs::path at = *place == '\0' ? folder : folder / place;
    const std::string part = first_named(names_in(at), "", ".incomplete");
    if (part.empty()) continue;
    return absl::StrCat(folder.string(), ": the download is incomplete (", (at / part).string(),
                        " is left of it); download the model again");
  }
  return std::nullopt;
}

absl::Status check_model_folder(const fs::path& path) {
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  if (status.type() == fs::file_type::not_found) {
    return absl::NotFoundError(absl::StrCat(path.string(), ": no such file or folder"));
  }
  if (fs::is_regular_file(status)) return check_single_file(path);
  const fs::directory_iterator listing(path, error);
  if (error) return fault(path, absl::StrCat("cannot list it as a folder: ", error.message()));
  const auto names = names_in(path);
  if (!is_file(path / kConfig)) return no_config(path, names);
  if (const auto pointer = lfs_pointer_in(path)) return absl::InvalidArgumentError(*pointer);
  const bool has_weights = std::ranges::any_of(names, [](const std::string& name) {
    return name == "model.safetensors" || name == "model.safetensors.index.json";
  });
  return has_weights ? absl::OkStatus() : no_weights(path, names);
}

}  // namespace kascade
