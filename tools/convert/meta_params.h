// Meta's params.json, and what it leaves open: the MLP's width, the rope factor, the context and
// the special tokens.
#ifndef KASCADE_TOOLS_CONVERT_META_PARAMS_H_
#define KASCADE_TOOLS_CONVERT_META_PARAMS_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/model/config.h"
#include "tools/convert/source.h"

namespace kascade::convert {

struct MetaParams {
  ModelConfig config{};  // vocab may be 0: not said; tied_head is not known here
  std::vector<std::string> decisions{};
};

// Meta's rule: two thirds of 4 · hidden, times the multiplier if there is one, rounded up.
// `multiple_of` > 0.
int64_t meta_mlp_width(int64_t hidden, std::optional<double> multiplier, int64_t multiple_of);

// `json` is the content of the file called `file` in messages. Unknown keys are UNIMPLEMENTED:
// they belong to models that this engine does not compute (vision, experts, quantised …).
absl::StatusOr<MetaParams> parse_meta_params(std::string_view json, const std::string& file,
                                             const SourceOptions& options);

// Sets bos and eos by the size of the vocabulary, which must be known. `folder_name` tells base
// models from Instruct ones.
void choose_meta_tokens(const std::string& folder_name, MetaParams& params);

}  // namespace kascade::convert

#endif  // KASCADE_TOOLS_CONVERT_META_PARAMS_H_
