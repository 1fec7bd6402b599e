#include "tools/convert/output_plan.h"

#include <algorithm>
#include <limits>
#include <map>
#include <numeric>
#include <set>
#include <tuple>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "nlohmann/json.hpp"
#include "tools/convert/model_tensors.h"

namespace kascade::convert {
namespace {

constexpr char kSingleFile[] = "model.safetensors";
constexpr char kOuterFile[] = "embeddings.safetensors";

// The order of tensors: embedding, layers, last norm, head.
int64_t place_of(const std::string& name) {
  if (const auto layer = layer_of(name)) return 1 + *layer;
  if (name == kEmbeddingName) return 0;
  const int64_t end = int64_t{std::numeric_limits<int32_t>::max()} + 2;
  return name == kHeadName ? end + 1 : end;
}

std::vector<size_t> in_order(const Source& source) {
  std::vector<size_t> order(source.tensors().size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return place_of(source.tensors()[a].name) < place_of(source.tensors()[b].name);
  });
  return order;
}

void add(OutputFile& file, size_t index, const SourceTensor& tensor) {
  file.sources.push_back(index);
  file.tensors.push_back(tensor);
}

std::vector<OutputFile> per_layer(const std::vector<std::pair<size_t, SourceTensor>>& tensors) {
  std::vector<OutputFile> files = {{.name = kOuterFile}};
  std::map<int32_t, OutputFile> layers;
  for (const auto& [index, tensor] : tensors) {
    const auto layer = layer_of(tensor.name);
    add(layer ? layers[*layer] : files[0], index, tensor);
  }
  for (auto& [layer, file] : layers) {
    file.name = absl::StrFormat("layer_%02d.safetensors", layer);
    files.push_back(std::move(file));
  }
  return files;
}

std::vector<OutputFile> shards(const std::vector<std::pair<size_t, SourceTensor>>& tensors,
                               int64_t max_bytes) {
  std::vector<OutputFile> files;
  int64_t bytes = 0;
  for (const auto& [index, tensor] : tensors) {
    if (files.empty() || bytes > max_bytes - tensor.bytes()) {
      files.emplace_back();
      bytes = 0;
    }
    add(files.back(), index, tensor);
    bytes += tensor.bytes();
  }
  for (size_t i = 0; i < files.size(); ++i) {
    files[i].name = files.size() == 1
                        ? kSingleFile
                        : absl::StrFormat("model-%05d-of-%05d.safetensors", i + 1, files.size());
  }
  return files;
}

}  // namespace

std::optional<int32_t> layer_of(const std::string& tensor_name) {
  const std::vector<std::string> parts = absl::StrSplit(tensor_name, '.');
  int32_t layer = 0;
  if (parts.size() < 4 || parts[0] != "model" || parts[1] != "layers") return std::nullopt;
  if (!absl::SimpleAtoi(parts[2], &layer)) return std::nullopt;
  return layer;
}

DType output_dtype(const Source& source, const SourceTensor& tensor,
                   const ConvertOptions& options) {
  if (options.dtype) return *options.dtype;
  if (tensor.shape.size() != 2) return tensor.dtype;
  const auto& all = source.tensors();
  const bool native = std::any_of(all.begin(), all.end(),
                                  [](const SourceTensor& each) { return has_blocks(each.dtype); });
  if (native) return tensor.dtype;
  const auto differs = [&](const SourceTensor& other) {
    return other.shape.size() == 2 && other.dtype != tensor.dtype;
  };
  const bool mixed = std::any_of(all.begin(), all.end(), differs);
  return mixed ? DType::kF32 : tensor.dtype;
}

std::vector<OutputFile> plan_output(const Source& source, const ConvertOptions& options) {
  std::vector<std::pair<size_t, SourceTensor>> tensors;
  for (const size_t index : in_order(source)) {
    SourceTensor tensor = source.tensors()[index];
    tensor.dtype = output_dtype(source, tensor, options);
    tensors.emplace_back(index, std::move(tensor));
  }
  return options.layout == Layout::kPerLayer ? per_layer(tensors)
                                             : shards(tensors, options.max_shard_bytes);
}

std::string index_json(const std::vector<OutputFile>& files) {
  if (files.size() == 1 && files[0].name == kSingleFile) return {};
  nlohmann::ordered_json map = nlohmann::ordered_json::object();
  int64_t bytes = 0;
  for (const OutputFile& file : files) {
    for (const SourceTensor& tensor : file.tensors) {
      map[tensor.name] = file.name;
      bytes += tensor.bytes();
    }
  }
  const nlohmann::ordered_json index = {{"metadata", {{"total_size", bytes}}}, {"weight_map", map}};
  return index.dump(2) + "\n";
}

}  // namespace kascade::convert
