#include "tools/convert/conversion_record.h"

#include <cstdint>

#include "absl/strings/str_cat.h"
#include "engine/model/file.h"
#include "engine/model/json.h"

namespace kascade::convert {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kMaxRecordBytes = 16 << 20;

}  // namespace

absl::StatusOr<ConversionRecord> ConversionRecord::begin(const Source& source,
                                                         const fs::path& source_path) {
  ConversionRecord record;
  record.json_ = {{"format", 1},
                  {"source",
                   {{"path", source_path.filename().string()},
                    {"family", source.family()},
                    {"files", nlohmann::ordered_json::array()}}},
                  {"decisions", source.decisions()},
                  {"parameters", source.config().parameters()},
                  {"outputs", nlohmann::ordered_json::object()}};
  for (const fs::path& input : source.inputs()) {
    const auto digest = file_digest(input);
    if (!digest.ok()) return digest.status();
    std::error_code ignored;
    record.json_["source"]["files"].push_back({{"name", input.filename().string()},
                                               {"bytes", fs::file_size(input, ignored)},
                                               {"sha256", *digest}});
  }
  return record;
}

void ConversionRecord::add_output(const std::string& file, const std::string& sha256) {
  json_["outputs"][file] = {{"sha256", sha256}};
}

std::string ConversionRecord::json() const {
  // File names are not always valid UTF-8.
  return json_.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

absl::StatusOr<std::map<std::string, std::string>> recorded_outputs(const fs::path& folder) {
  std::map<std::string, std::string> digests;
  const fs::path file = folder / kRecordFile;
  const auto text = read_file(file, kMaxRecordBytes);
  if (absl::IsNotFound(text.status())) return digests;
  if (!text.ok()) return text.status();
  const auto json = parse_json_object(*text, file.string());
  if (!json.ok()) return json.status();
  const auto outputs = json->find("outputs");
  if (outputs == json->end() || !outputs->is_object()) {
    return absl::InvalidArgumentError(absl::StrCat(file.string(), ": outputs: expected an object"));
  }
  for (const auto& [name, entry] : outputs->items()) {
    if (!entry.is_object() || !entry.contains("sha256") || !entry["sha256"].is_string()) {
      return absl::InvalidArgumentError(absl::StrCat(file.string(), ": outputs: ", shown(name),
                                                     ": expected a sha256, found ", shown(entry)));
    }
    digests[name] = entry["sha256"].get<std::string>();
  }
  return digests;
}

}  // namespace kascade::convert
