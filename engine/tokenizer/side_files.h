// The small files beside a tokenizer.json that change how texts are encoded.
#ifndef KASCADE_ENGINE_TOKENIZER_SIDE_FILES_H_
#define KASCADE_ENGINE_TOKENIZER_SIDE_FILES_H_

#include <filesystem>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/tokenizer/json_fields.h"

namespace kascade::bpe {

// The object in `file`; unset if there is no such file. INVALID_ARGUMENT names the file: it is
// empty, not JSON, not an object or too large.
absl::StatusOr<std::optional<Json>> read_side_file(const std::filesystem::path& file);

// Applies the tokenizer_config.json of `directory` to the content of its tokenizer file as Hugging
// Face's tokenizer classes do. LlamaTokenizer and LlamaTokenizerFast replace the post-processor by
// one that puts bos_token in front of a text if add_bos_token is set (the default), and eos_token
// behind it if add_eos_token is set. All other classes leave both to the tokenizer file.
absl::Status apply_tokenizer_config(const std::filesystem::path& directory, Json& tokenizer);

}  // namespace kascade::bpe

#endif  // KASCADE_ENGINE_TOKENIZER_SIDE_FILES_H_
