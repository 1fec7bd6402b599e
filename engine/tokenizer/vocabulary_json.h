// The conversions of vocabulary_files.h as values: what a tokenizer is made from without going
// through text.
#ifndef KASCADE_ENGINE_TOKENIZER_VOCABULARY_JSON_H_
#define KASCADE_ENGINE_TOKENIZER_VOCABULARY_JSON_H_

#include "absl/status/statusor.h"
#include "engine/tokenizer/json_fields.h"
#include "engine/tokenizer/vocabulary_files.h"

namespace kascade::bpe {

absl::StatusOr<Json> tokenizer_json_of(const SentencePieceVocabulary& vocabulary);
absl::StatusOr<Json> tokenizer_json_of(const ByteLevelVocabulary& vocabulary);
absl::StatusOr<Json> tokenizer_json_of(const TiktokenVocabulary& vocabulary);

// The parts that all kinds have.
Json added_token_json(int32_t id, const std::string& content, bool special);
// A template that puts token `id` in front of the text.
Json prefix_template_json(const std::string& content, int32_t id);
Json byte_level_json(bool use_regex);
// Cuts text as Llama 3 does.
Json llama3_pre_tokenizer_json();

}  // namespace kascade::bpe

#endif  // KASCADE_ENGINE_TOKENIZER_VOCABULARY_JSON_H_
