// Which tensor goes into which file of the destination.
#ifndef KASCADE_TOOLS_CONVERT_OUTPUT_PLAN_H_
#define KASCADE_TOOLS_CONVERT_OUTPUT_PLAN_H_

#include <cstddef>
#include <string>
#include <vector>

#include "tools/convert/convert.h"

namespace kascade::convert {

struct OutputFile {
  std::string name{};
  std::vector<size_t> sources{};        // indices into Source::tensors()
  std::vector<SourceTensor> tensors{};  // the same, in the dtype that is written
};

// Every tensor in exactly one file, layers in order; embedding first, last norm and head at the
// end.
std::vector<OutputFile> plan_output(const Source& source, const ConvertOptions& options);

// The dtype that `tensor` is written in.
DType output_dtype(const Source& source, const SourceTensor& tensor, const ConvertOptions& options);

// model.safetensors.index.json; empty when a single model.safetensors holds everything.
std::string index_json(const std::vector<OutputFile>& files);

}  // namespace kascade::convert

#endif  // KASCADE_TOOLS_CONVERT_OUTPUT_PLAN_H_
