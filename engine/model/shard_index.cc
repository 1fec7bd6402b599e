#include "engine/model/shard_index.h"

#include <system_error>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "engine/model/file.h"
#include "engine/model/json.h"

namespace kascade {
namespace {

constexpr int64_t kMaxIndexBytes = 100 << 20;

absl::Status invalid(const std::filesystem::path& index, const std::string& fault) {
  return absl::InvalidArgumentError(absl::StrCat(index.string(), ": weight_map", fault));
}

// All files that are missing, as a download that was interrupted lacks some.
absl::Status check_files(const std::filesystem::path& index,
                         const std::map<std::string, std::set<std::string>>& shards) {
  constexpr size_t kMaxShown = 8;
  std::vector<std::string> missing;
  for (const auto& [shard, names] : shards) {
    std::error_code ignored;
    if (!std::filesystem::exists(index.parent_path() / shard, ignored)) missing.push_back(shard);
  }
  if (missing.empty()) return absl::OkStatus();
  const size_t count = missing.size();
  if (count > kMaxShown) missing.resize(kMaxShown);
  return absl::InvalidArgumentError(absl::StrCat(
      index.string(), ": ", count, " of the ", shards.size(),
      " files that it lists are missing: ", absl::StrJoin(missing, ", "),
      count > kMaxShown ? ", …" : "", "; the download is incomplete, download the model again"));
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
  if (auto status = check_files(index, shards); !status.ok()) return status;
  return shards;
}

}  // namespace kascade
