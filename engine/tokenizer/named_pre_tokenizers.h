// The pre-tokenizers that GGUF files name (tokenizer.ggml.pre) instead of writing out.
#ifndef KASCADE_ENGINE_TOKENIZER_NAMED_PRE_TOKENIZERS_H_
#define KASCADE_ENGINE_TOKENIZER_NAMED_PRE_TOKENIZERS_H_

#include <string>

#include "absl/status/statusor.h"
#include "engine/tokenizer/json_fields.h"

namespace kascade::bpe {

// Values of fields of a tokenizer.json.
struct NamedPreTokenizer {
  Json normalizer{};
  Json pre_tokenizer{};
};

// Returns what the tokenizer.json of the models with this name has, which the name stands for.
// UNIMPLEMENTED, with the list of names, for one that is not known.
absl::StatusOr<NamedPreTokenizer> named_pre_tokenizer(const std::string& name);

}  // namespace kascade::bpe

#endif  // KASCADE_ENGINE_TOKENIZER_NAMED_PRE_TOKENIZERS_H_
