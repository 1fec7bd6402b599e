#include "engine/tokenizer/vocabulary_json.h"

#include <utility>

#include "engine/tokenizer/word_patterns.h"

namespace kascade::bpe {
namespace {

template <typename T>
absl::StatusOr<std::string> text_of(const T& vocabulary) {
  const absl::StatusOr<Json> json = tokenizer_json_of(vocabulary);
  if (!json.ok()) return json.status();
  return json->dump();
}

}  // namespace

Json added_token_json(int32_t id, const std::string& content, bool special) {
  return {{"id", id},        {"content", content}, {"special", special},  {"normalized", false},
          {"lstrip", false}, {"rstrip", false},    {"single_word", false}};
}

Json prefix_template_json(const std::string& content, int32_t id) {
  Json json = {{"type", "TemplateProcessing"}, {"pair", Json::array()}};
  json["single"] = Json::array({{{"SpecialToken", {{"id", content}, {"type_id", 0}}}},
                                {{"Sequence", {{"id", "A"}, {"type_id", 0}}}}});
  json["special_tokens"][content] = {
      {"id", content}, {"ids", Json::array({id})}, {"tokens", Json::array({content})}};
  return json;
}

Json byte_level_json(bool use_regex) {
  return {{"type", "ByteLevel"},
          {"add_prefix_space", false},
          {"trim_offsets", true},
          {"use_regex", use_regex}};
}

Json llama3_pre_tokenizer_json() {
  Json split = {{"type", "Split"}, {"behavior", "Isolated"}, {"invert", false}};
  split["pattern"]["Regex"] = kLlama3Pattern;
  return {{"type", "Sequence"},
          {"pretokenizers", Json::array({std::move(split), byte_level_json(false)})}};
}

}  // namespace kascade::bpe

namespace kascade {

absl::StatusOr<std::string> to_tokenizer_json(const SentencePieceVocabulary& vocabulary) {
  return bpe::text_of(vocabulary);
}

absl::StatusOr<std::string> to_tokenizer_json(const ByteLevelVocabulary& vocabulary) {
  return bpe::text_of(vocabulary);
}

absl::StatusOr<std::string> to_tokenizer_json(const TiktokenVocabulary& vocabulary) {
  return bpe::text_of(vocabulary);
}

}  // namespace kascade
