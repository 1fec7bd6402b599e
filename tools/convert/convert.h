// Turns a Source into a Hugging Face folder that the server loads: config.json, safetensors (with
// an index when there are several), the source's side files and conversion.json.
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
  // Of every tensor; unset keeps the source's, except that matrices of several dtypes all become
  // f32 (the server wants one).
  std::optional<DType> dtype{};
  Layout layout = Layout::kShards;
  int64_t max_shard_bytes = 2'000'000'000;  // a larger tensor gets a shard of its own
  bool force = false;                       // replace DEST
  // Polled between pieces of a tensor; null = never.
  const std::atomic<bool>* cancelled = nullptr;
};

struct ConvertProgress {
  int64_t bytes_done = 0;  // of the destination's tensors
  int64_t bytes_total = 0;
  std::string tensor{};
};

// `source_path` is recorded in conversion.json. After an error or a cancellation (CANCELLED)
// nothing is left at DEST. A value that is not finite, or that the wanted dtype cannot hold, is
// INVALID_ARGUMENT with tensor, index and value. Peak memory: the largest tensor and its source's
// read(), and a few MB.
absl::Status convert(Source& source, const std::filesystem::path& source_path,
                     const std::filesystem::path& destination, const ConvertOptions& options,
                     const std::function<void(const ConvertProgress&)>& report);

// Layer that a tensor's name tells; unset for the embedding, the last norm and the head.
std::optional<int32_t> layer_of(const std::string& tensor_name);

}  // namespace kascade::convert

#endif  // KASCADE_TOOLS_CONVERT_CONVERT_H_
