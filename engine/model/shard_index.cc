#include "engine/model/shard_index.h"

#include "absl/strings/str_cat.h"
#include "engine/model/file.h"
#include "engine/model/json.h"

namespace kascade {
namespace {

constexpr int64_t kMaxIndexBytes = 100 << 20;

absl::Status invalid(const std::filesystem::path& index, const std::string& fault) {
  return absl::InvalidArgumentError(absl::StrCat(index.string(), ": weight_map", fault));
}

}  // namespace

absl::StatusOr<std::map<std::string, std::set<std::string>>> read_shard_index(
    const std::filesystem::path& index, std::string_view suffix) {
  const auto text = read_file(index, kMaxIndexBytes);
  if (!text.ok()) return text.status();
  const auto document = parse_json_object(*text, index.string());
  if (!document.ok()) return document.status();
  const auto map = document->find("weight_map");
  if (map == document->end() || !map->is_object()) return invalid(index, " must be an object");
  std::map<std::string, std::set<std::string>> shards;
  for (const auto& [name, shard] : map->items()) {
    const std::string file = shard.is_string() ? shard.get<std::string>() : "";
    if (!file.ends_with(suffix) || file.find_first_of("/\\\0", 0, 3) != std::string::npos) {
      return invalid(
          index, absl::StrCat(": ", shown(name), ": expected the name of a ", std::string(suffix),
                              " file beside the index, found ", shown(shard)));
    }
    shards[file].insert(name);
  }
  return shards;
}

}  // namespace kascade
