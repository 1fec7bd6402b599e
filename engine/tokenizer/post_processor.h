// The post-processor of a tokenizer.json (field `post_processor`): the tokens added before and
// after an encoded text.
#ifndef KASCADE_ENGINE_TOKENIZER_POST_PROCESSOR_H_
#define KASCADE_ENGINE_TOKENIZER_POST_PROCESSOR_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/tokenizer/json_fields.h"
#include "engine/tokenizer/vocabulary.h"

namespace kascade::bpe {

struct PostProcessor {
  std::vector<int32_t> prefix{};
  std::vector<int32_t> suffix{};

  // `json` is the value of the field, or nullptr when it is absent or null.
  static absl::StatusOr<PostProcessor> parse(const Json* json, const Vocabulary& vocabulary);
};

}  // namespace kascade::bpe

#endif  // KASCADE_ENGINE_TOKENIZER_POST_PROCESSOR_H_
