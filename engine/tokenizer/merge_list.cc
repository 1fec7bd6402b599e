#include "engine/tokenizer/merge_list.h"

#include <string_view>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace kascade::bpe {
namespace {

// Limit for the number of merges; Llama 3 has 280,147. Long runs of one letter can be split
// anywhere, so a hostile vocabulary can have far more merges than tokens.
constexpr size_t kMaxMerges = 1 << 22;

bool continues_character(char c) { return (static_cast<uint8_t>(c) & 0xC0) == 0x80; }

struct Merge {
  std::string_view left;
  std::string_view right;
  int32_t rank;
};

// Spells a merge as "a b", or as ["a", "b"] if a space in a token would make the former ambiguous.
Json json_of(const Merge& merge) {
  const std::string left(merge.left);
  const std::string right(merge.right);
  if (left.find(' ') != left.npos || right.find(' ') != right.npos)
    return Json::array({left, right});
  return absl::StrCat(left, " ", right);
}

}  // namespace

absl::Status list_merges(const std::vector<MergeResult>& tokens, Json& model) {
  absl::flat_hash_set<std::string_view> texts;
  texts.reserve(tokens.size());
  for (const MergeResult& token : tokens) texts.insert(token.text);

  std::vector<Merge> merges;
  for (const MergeResult& token : tokens) {
    const std::string_view text = token.text;
    for (size_t cut = 1; cut < text.size(); ++cut) {
      if (continues_character(text[cut]) || !texts.contains(text.substr(0, cut)) ||
          !texts.contains(text.substr(cut))) {
        continue;
      }
      if (merges.size() == kMaxMerges) {
        return absl::InvalidArgumentError(
            absl::StrCat("the tokens have more than ", kMaxMerges, " merges"));
      }
      merges.push_back({text.substr(0, cut), text.substr(cut), token.rank});
    }
  }

  Json::array_t list;
  Json::array_t ranks;
  list.reserve(merges.size());
  ranks.reserve(merges.size());
  for (const Merge& merge : merges) {
    list.push_back(json_of(merge));
    ranks.emplace_back(merge.rank);
  }
  model["merges"] = std::move(list);
  model["merge_ranks"] = std::move(ranks);
  return absl::OkStatus();
}

}  // namespace kascade::bpe
