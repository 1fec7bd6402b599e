// The conversions of vocabulary_files.h as JSON values, from which a tokenizer is made without
// writing and parsing text.
#ifndef KASCADE_ENGINE_TOKENIZER_VOCABULARY_JSON_H_
#define KASCADE_ENGINE_TOKENIZER_VOCABULARY_JSON_H_

#include "absl/status/statusor.h"
#include "engine/tokenizer/json_fields.h"
#include "engine/tokenizer/vocabulary_files.h"

namespace kascade::bpe {

absl::StatusOr<Json> tokenizer_json_of(const SentencePieceVocabulary& vocabulary);
absl::StatusOr<Json> tokenizer_json_of(const ByteLevelVocabulary& vocabulary);
absl::StatusOr<Json> tokenizer_json_of(const TiktokenVocabulary& vocabulary);

// Parts of a tokenizer.json that all kinds of vocabulary share.
Json added_token_json(int32_t id, const std::string& content, bool special);
// A post-processor that puts token `id` before the text.
Json prefix_template_json(const std::string& content, int32_t id);
Json byte_level_json(bool use_regex);
// The pre-tokenizer of Llama 3.
Json llama3_pre_tokenizer_json();

}  // namespace kascade::bpe

#endif  // KASCADE_ENGINE_TOKENIZER_VOCABULARY_JSON_H_
