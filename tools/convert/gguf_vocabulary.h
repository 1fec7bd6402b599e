// The tokenizer that a GGUF file carries in its metadata (tokenizer.ggml.*).
#ifndef KASCADE_TOOLS_CONVERT_GGUF_VOCABULARY_H_
#define KASCADE_TOOLS_CONVERT_GGUF_VOCABULARY_H_

#include <string>
#include <variant>

#include "absl/status/statusor.h"
#include "engine/tokenizer/vocabulary_files.h"
#include "tools/convert/gguf_file.h"

namespace kascade::convert {

using GgufVocabulary = std::variant<SentencePieceVocabulary, ByteLevelVocabulary>;

// UNIMPLEMENTED for a tokenizer that is neither; INVALID_ARGUMENT for lists that are missing or do
// not fit together.
absl::StatusOr<GgufVocabulary> gguf_vocabulary(const GgufFile& file);

// The content of its tokenizer.json; errors name the file.
absl::StatusOr<std::string> gguf_tokenizer_json(const GgufFile& file);

}  // namespace kascade::convert

#endif  // KASCADE_TOOLS_CONVERT_GGUF_VOCABULARY_H_
