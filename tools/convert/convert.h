// Converts a Source to a Hugging Face folder that the server loads: config.json, safetensors (with
// an index if there are several files), the source's side files and conversion.json.
#ifndef KASCADE_TOOLS_CONVERT_CONVERT_H_
#define KASCADE_TOOLS_CONVERT_CONVERT_H_

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "engine/backend/tensor.h"
#include "tools/convert/source.h"

namespace kascade::convert {

enum class Layout {
  kShards,    // model.safetensors, or model-0000x-of-0000y.safetensors
  kPerLayer,  // embeddings.safetensors (embedding, norm, head) and layer_NN.safetensors
};

struct ConvertOptions {
  // The dtype of all tensors that are written: f32, bf16 or f16. If it is unset, tensors keep the
  // dtype of the source: with blocks, each matrix its own; otherwise, all matrices become f32 if
  // they have several dtypes, because the server requires a single one.
  std::optional<DType> dtype{};
  Layout layout = Layout::kShards;
  int64_t max_shard_bytes = 2'000'000'000;  // a tensor that is larger has its own shard
  bool force = false;                       // replace an existing destination
  // Polled between parts of a tensor; null means that the conversion cannot be cancelled.
  const std::atomic<bool>* cancelled = nullptr;
  // If set, it is called with the complete folder before the folder gets its name. An error undoes
  // the conversion.
  std::function<absl::Status(const std::filesystem::path& folder)> add_to_folder{};
};

struct ConvertProgress {
  int64_t bytes_done = 0;  // bytes of the tensors that are written
  int64_t bytes_total = 0;
  std::string tensor{};
};

// Converts `source` into the folder `destination`; `source_path` is recorded in conversion.json.
// After an error or a cancellation (CANCELLED) nothing is left at `destination`. INVALID_ARGUMENT,
// with tensor, index and value, for a value that is not finite or that the requested dtype cannot
// represent. Peak memory is the size of the largest tensor, the memory that the source's read()
// uses, and a few MB.
absl::Status convert(Source& source, const std::filesystem::path& source_path,
                     const std::filesystem::path& destination, const ConvertOptions& options,
                     const std::function<void(const ConvertProgress&)>& report);

// Returns the layer that the name of a tensor states; unset for the embedding, the last norm and
// the head.
std::optional<int32_t> layer_of(const std::string& tensor_name);

}  // namespace kascade::convert

#endif  // KASCADE_TOOLS_CONVERT_CONVERT_H_
