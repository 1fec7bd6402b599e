#include "tools/convert/hugging_face_files.h"

#include <cstdint>
#include <system_error>

#include "engine/model/file.h"
#include "tools/convert/config_json.h"

namespace kascade::convert {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kMaxConfigBytes = 1 << 20;

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

absl::StatusOr<std::string> hugging_face_config(const fs::path& folder,
                                                const SourceOptions& options) {
  auto text = read_file(folder / "config.json", kMaxConfigBytes);
  if (!text.ok() || !options.rope_factor) return text;
  return with_rope_factor(*text, *options.rope_factor);
}

absl::StatusOr<ModelConfig> parse_hugging_face_config(const fs::path& folder,
                                                      const std::string& config_json) {
  auto generation = read_file(folder / "generation_config.json", kMaxConfigBytes);
  if (absl::IsNotFound(generation.status())) generation = std::string();
  if (!generation.ok()) return generation.status();
  return parse_config(config_json, *generation);
}

}  // namespace kascade::convert
