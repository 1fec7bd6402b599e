#include "engine/tokenizer/vocabulary.h"

#include "absl/strings/str_cat.h"

namespace kascade::bpe {

std::optional<int32_t> Vocabulary::find(std::string_view text) const {
  const auto found = ids_.find(text);
  if (found == ids_.end()) return std::nullopt;
  return found->second;
}

absl::Status Vocabulary::add(const std::string& path, const std::string& text, int32_t id) {
  if (id >= size()) entries_.resize(id + 1);
  VocabularyEntry& entry = entries_[id];
  if (entry.present) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": id ", id, " of ", Json(text).dump(),
                                                   " is already that of ",
                                                   Json(entry.text).dump()));
  }
  entry.text = text;
  entry.present = true;
  ids_.emplace(text, id);
  return absl::OkStatus();
}

absl::Status Vocabulary::add_model_tokens(const Json& vocab) {
  ids_.reserve(vocab.size());
  for (const auto& [text, id] : vocab.items()) {
    if (!is_natural(id) || id.get<uint64_t>() >= kMaxIds) {
      return malformed(absl::StrCat("model.vocab[", Json(text).dump(), "]"), id,
                       absl::StrCat("an id in [0, ", kMaxIds, ")"));
    }
    const absl::Status status = add("model.vocab", text, id.get<int32_t>());
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status Vocabulary::add_added_tokens(const Json& added_tokens) {
  for (size_t i = 0; i < added_tokens.size(); ++i) {
    const absl::Status status =
        add_added_token(added_tokens[i], absl::StrCat("added_tokens[", i, "]"));
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status Vocabulary::add_added_token(const Json& json, const std::string& path) {
  ObjectReader reader(json, path);
  AddedToken token;
  token.id = reader.integer("id", kMaxIds);
  token.content = reader.text("content");
  token.special = reader.boolean("special", false);
  token.normalized = reader.boolean("normalized", !token.special);
  token.lstrip = reader.boolean("lstrip", false);
  token.rstrip = reader.boolean("rstrip", false);
  if (reader.boolean("single_word", false)) {
    reader.fail(unsupported(reader.path_of("single_word"), true, "false"));
  }
  const absl::Status status = reader.finish();
  if (!status.ok()) return status;
  if (token.content.empty()) return malformed(reader.path_of("content"), "", "some text");

  const std::optional<int32_t> known = find(token.content);
  if (!known) {
    const absl::Status added = add(path, token.content, token.id);
    if (!added.ok()) return added;
  } else if (*known != token.id || entries_[token.id].added) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": ", token.content, " with id ", token.id,
                                                   " is already there with id ", *known));
  }
  entries_[token.id].added = true;
  entries_[token.id].special = token.special;
  entries_[token.id].lstrip = token.lstrip;
  entries_[token.id].rstrip = token.rstrip;
  added_tokens_.push_back(std::move(token));
  return absl::OkStatus();
}

}  // namespace kascade::bpe
