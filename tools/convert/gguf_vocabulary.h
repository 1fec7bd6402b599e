// Reads the tokenizer from the metadata of a GGUF file (tokenizer.ggml.*).
#ifndef KASCADE_TOOLS_CONVERT_GGUF_VOCABULARY_H_
#define KASCADE_TOOLS_CONVERT_GGUF_VOCABULARY_H_

#include <string>
#include <variant>

#include "absl/status/statusor.h"
#include "engine/tokenizer/vocabulary_files.h"
#include "tools/convert/gguf_file.h"

namespace kascade::convert {

using GgufVocabulary = std::variant<SentencePieceVocabulary, ByteLevelVocabulary>;

// Reads the vocabulary. UNIMPLEMENTED for a tokenizer that is neither of these kinds;
// INVALID_ARGUMENT for lists that are missing or of different lengths.
absl::StatusOr<GgufVocabulary> gguf_vocabulary(const GgufFile& file);

// Returns the content of a tokenizer.json for it; errors name the file.
absl::StatusOr<std::string> gguf_tokenizer_json(const GgufFile& file);

}  // namespace kascade::convert

#endif  // KASCADE_TOOLS_CONVERT_GGUF_VOCABULARY_H_
