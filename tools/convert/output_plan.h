// Decides which tensor is written to which file of the destination.
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
  std::vector<SourceTensor> tensors{};  // the same tensors with the dtype that is written
};

// Returns the files. Every tensor is in exactly one file. The embedding comes first, then the
// layers in order, then the last norm and the head.
std::vector<OutputFile> plan_output(const Source& source, const ConvertOptions& options);

// Returns the dtype in which `tensor` is written.
DType output_dtype(const Source& source, const SourceTensor& tensor, const ConvertOptions& options);

// Returns the content of model.safetensors.index.json; empty if a single model.safetensors holds
// everything.
std::string index_json(const std::vector<OutputFile>& files);

}  // namespace kascade::convert

#endif  // KASCADE_TOOLS_CONVERT_OUTPUT_PLAN_H_
