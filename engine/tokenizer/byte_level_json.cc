// Converts byte-level vocabularies to tokenizer.json: tiktoken ranks of Llama 3 and the token lists
// of GGUF files.
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "engine/tokenizer/byte_alphabet.h"
#include "engine/tokenizer/merge_list.h"
#include "engine/tokenizer/named_pre_tokenizers.h"
#include "engine/tokenizer/utf8.h"
#include "engine/tokenizer/vocabulary.h"
#include "engine/tokenizer/vocabulary_json.h"

namespace kascade::bpe {
namespace {

constexpr int kSpecialTokens = 256;

// Llama 3's special tokens, by offset after the ordinary tokens. The offsets between and after them
// are reserved tokens.
constexpr std::pair<int, const char*> kLlama3Names[] = {
    {0, "<|begin_of_text|>"},   {1, "<|end_of_text|>"},   {4, "<|finetune_right_pad_id|>"},
    {6, "<|start_header_id|>"}, {7, "<|end_header_id|>"}, {8, "<|eom_id|>"},
    {9, "<|eot_id|>"},          {10, "<|python_tag|>"}};

std::vector<std::string> llama3_special_tokens() {
  std::vector<std::string> names(kSpecialTokens);
  for (const auto& [place, name] : kLlama3Names) names[place] = name;
  int reserved = 0;
  for (std::string& name : names) {
    if (name.empty()) name = absl::StrCat("<|reserved_special_token_", reserved++, "|>");
  }
  return names;
}

std::string spelling_of_all(std::string_view bytes) {
  std::string spelling;
  for (const char c : bytes) spelling += spelling_of(static_cast<uint8_t>(c));
  return spelling;
}

absl::Status check(const TiktokenVocabulary& vocabulary) {
  const size_t size = vocabulary.tokens.size();
  if (size > Vocabulary::kMaxIds - kSpecialTokens) {
    return absl::InvalidArgumentError(absl::StrCat("found ", size, " tokens, expected at most ",
                                                   Vocabulary::kMaxIds - kSpecialTokens));
  }
  absl::flat_hash_set<std::string_view> seen;
  seen.reserve(size);
  for (size_t rank = 0; rank < size; ++rank) {
    const std::string& bytes = vocabulary.tokens[rank];
    // Each byte takes up to two bytes in the byte alphabet.
    if (bytes.empty() || bytes.size() > kMaxTokenBytes / 2) {
      return absl::InvalidArgumentError(absl::StrCat("rank ", rank, ": ", bytes.size(),
                                                     " bytes, expected 1 to ", kMaxTokenBytes / 2));
    }
    if (!seen.insert(bytes).second) {
      return absl::InvalidArgumentError(
          absl::StrCat("rank ", rank, ": another rank has the same bytes"));
    }
  }
  for (int byte = 0; byte < 256; ++byte) {
    const char c = static_cast<char>(byte);
    if (seen.contains(std::string_view(&c, 1))) continue;
    return absl::InvalidArgumentError(absl::StrCat("no token for the single byte ", byte));
  }
  return absl::OkStatus();
}

Json byte_level_frame(Json pre_tokenizer) {
  Json json = {{"version", "1.0"}, {"normalizer", nullptr}, {"added_tokens", Json::array()}};
  json["pre_tokenizer"] = std::move(pre_tokenizer);
  json["decoder"] = byte_level_json(true);
  json["post_processor"] = byte_level_json(false);
  return json;
}

absl::Status check(const ByteLevelVocabulary& vocabulary) {
  const size_t size = vocabulary.tokens.size();
  if (size == 0 || size > Vocabulary::kMaxIds) {
    return absl::InvalidArgumentError(
        absl::StrCat("tokens: found ", size, ", expected 1 to ", Vocabulary::kMaxIds));
  }
  absl::flat_hash_set<std::string_view> texts;
  texts.reserve(size);
  for (size_t id = 0; id < size; ++id) {
    const std::string& text = vocabulary.tokens[id].text;
    const auto path = [&] { return absl::StrCat("tokens[", id, "]"); };
    if (text.empty()) return malformed(path(), text, "some text");
    if (valid_utf8_length(text) < text.size()) {
      return absl::InvalidArgumentError(absl::StrCat(path(), ": is not UTF-8"));
    }
    if (!texts.insert(text).second) return malformed(path(), text, "a text that no other has");
  }
  for (size_t i = 0; i < vocabulary.merges.size(); ++i) {
    if (valid_utf8_length(vocabulary.merges[i]) == vocabulary.merges[i].size()) continue;
    return absl::InvalidArgumentError(absl::StrCat("merges[", i, "]: is not UTF-8"));
  }
  if (vocabulary.bos && (*vocabulary.bos < 0 || static_cast<size_t>(*vocabulary.bos) >= size)) {
    return absl::InvalidArgumentError(
        absl::StrCat("bos: ", *vocabulary.bos, ", expected an id in [0, ", size, ")"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Json> tokenizer_json_of(const TiktokenVocabulary& vocabulary) {
  absl::Status status = check(vocabulary);
  if (!status.ok()) return status;
  Json json = byte_level_frame(llama3_pre_tokenizer_json());
  // tiktoken does not merge a piece that is itself a token, but takes it whole.
  Json model = {{"type", "BPE"}, {"ignore_merges", true}};
  std::vector<MergeResult> results;
  results.reserve(vocabulary.tokens.size());
  Json::object_t vocab;
  for (const std::string& bytes : vocabulary.tokens) {
    const auto rank = static_cast<int32_t>(results.size());
    results.push_back({spelling_of_all(bytes), rank});
    vocab.emplace(results.back().text, rank);
  }
  model["vocab"] = std::move(vocab);
  status = list_merges(results, model);
  if (!status.ok()) return status;
  json["model"] = std::move(model);
  auto id = static_cast<int32_t>(vocabulary.tokens.size());
  json["post_processor"] = prefix_template_json(kLlama3Names[0].second, id);
  for (const std::string& name : llama3_special_tokens()) {
    json["added_tokens"].push_back(added_token_json(id++, name, /*special=*/true));
  }
  return json;
}

absl::StatusOr<Json> tokenizer_json_of(const ByteLevelVocabulary& vocabulary) {
  const absl::Status status = check(vocabulary);
  if (!status.ok()) return status;
  absl::StatusOr<NamedPreTokenizer> named = named_pre_tokenizer(vocabulary.pre_tokenizer);
  if (!named.ok()) return named.status();
  Json json = byte_level_frame(std::move(named->pre_tokenizer));
  json["normalizer"] = std::move(named->normalizer);
  Json model = {{"type", "BPE"}, {"ignore_merges", vocabulary.ignore_merges}};
  Json::object_t vocab;
  for (size_t i = 0; i < vocabulary.tokens.size(); ++i) {
    const auto& [text, type] = vocabulary.tokens[i];
    // Ids without a token, to which GGUF files give a name.
    if (type == PieceType::kUnused) continue;
    const auto id = static_cast<int32_t>(i);
    vocab.emplace(text, id);
    const bool special = type == PieceType::kControl || type == PieceType::kUnknown;
    if (special || type == PieceType::kUserDefined) {
      json["added_tokens"].push_back(added_token_json(id, text, special));
    }
    if (type == PieceType::kUnknown) model["unk_token"] = text;
  }
  model["vocab"] = std::move(vocab);
  model["merges"] = vocabulary.merges;
  json["model"] = std::move(model);
  if (vocabulary.bos && vocabulary.add_bos) {
    json["post_processor"] =
        prefix_template_json(vocabulary.tokens[*vocabulary.bos].text, *vocabulary.bos);
  }
  return json;
}

}  // namespace kascade::bpe
