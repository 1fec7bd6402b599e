#include "tools/convert/hugging_face_files.h"

#include <cstdint>
#include <system_error>

#include "engine/model/file.h"
#include "engine/model/json.h"
#include "tools/convert/config_json.h"

namespace kascade::convert {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kMaxConfigBytes = 1 << 20;
constexpr int64_t kMaxSideFileBytes = 16 << 20;

}  // namespace

std::vector<SideFile> hugging_face_side_files(const fs::path& folder) {
  std::vector<SideFile> files;
  for (const char* name :
       {"tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json",
        "chat_template.jinja", "generation_config.json"}) {
    std::error_code ignored;
    if (!fs::is_regular_file(folder / name, ignored)) continue;
    files.push_back({.name = name, .copy_of = folder / name});
  }
  return files;
}

absl::Status check_side_files(const fs::path& folder) {
  for (const char* name : {"tokenizer_config.json", "special_tokens_map.json"}) {
    const auto text = read_file(folder / name, kMaxSideFileBytes);
    if (absl::IsNotFound(text.status())) continue;
    if (!text.ok()) return text.status();
    const auto object = parse_json_object(*text, (folder / name).string());
    if (!object.ok()) return object.status();
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> hugging_face_config(const fs::path& folder,
                                                const SourceOptions& options) {
  auto text = read_file(folder / "config.json", kMaxConfigBytes);
  if (!text.ok() || !options.rope_factor) return text;
  return with_rope_factor(*text, *options.rope_factor);
}

absl::StatusOr<ModelConfig> parse_hugging_face_config(const fs::path& folder,
                                                      const std::string& config_json) {
  const auto generation = read_generation_config(folder);
  if (!generation.ok()) return generation.status();
  return parse_config(config_json, *generation);
}

}  // namespace kascade::convert
