// Reads Meta's params.json and determines what it does not state: the width of the MLP, the rope
// factor, the context length and the special tokens.
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
  ModelConfig config{};  // vocab is 0 if the file does not state it; tied_head is not known here
  std::vector<std::string> decisions{};
};

// Computes the width of the MLP as Meta's code does: two thirds of 4 · hidden, times the multiplier
// if there is one, rounded up to a multiple of `multiple_of` (> 0).
int64_t meta_mlp_width(int64_t hidden, std::optional<double> multiplier, int64_t multiple_of);

// Parses `json`, the content of the file that error messages call `file`. UNIMPLEMENTED for unknown
// keys, which belong to models that this engine does not support (vision, experts, quantised …).
absl::StatusOr<MetaParams> parse_meta_params(std::string_view json, const std::string& file,
                                             const SourceOptions& options);

// Sets bos and eos according to the size of the vocabulary, which must be known. `folder_name`
// distinguishes base models from Instruct models.
void choose_meta_tokens(const std::string& folder_name, MetaParams& params);

}  // namespace kascade::convert

#endif  // KASCADE_TOOLS_CONVERT_META_PARAMS_H_
