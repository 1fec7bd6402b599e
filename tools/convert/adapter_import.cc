#include "tools/convert/adapter_import.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <set>
#include <span>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "engine/model/file.h"
#include "engine/model/json.h"
#include "tools/convert/torch_file.h"
#include "tools/convert/value_cast.h"

namespace kascade::convert {
namespace {

using Json = nlohmann::json;

constexpr char kTensors[] = "sparse_adapters.pt";
constexpr char kDescription[] = "training_config.json";
constexpr char kOptions[] = "sparse_attn_config";
constexpr int64_t kMaxJsonBytes = 1 << 20;

absl::Status fault(const std::string& source, const std::string& what) {
  return absl::InvalidArgumentError(absl::StrCat(source, ": ", what));
}

// ---- training_config.json ----

// The file's name for a compressor is ours.
absl::Status read_compressor(const Json& options, const std::string& key, const std::string& source,
                             Compressor& value) {
  const auto found = options.find(key);
  if (found == options.end()) return fault(source, absl::StrCat(key, ": is missing"));
  if (!found->is_string())
    return fault(source, absl::StrCat(key, ": must be a text, is ", shown(*found)));
  const auto named = compressor_named(found->get<std::string>());
  if (!named.ok()) return fault(source, absl::StrCat(key, ": ", named.status().message()));
  value = *named;
  return absl::OkStatus();
}

absl::Status read_count(const Json& options, const std::string& key, const std::string& source,
                        int32_t& value) {
  const auto found = options.find(key);
  if (found == options.end()) return fault(source, absl::StrCat(key, ": is missing"));
  const std::optional<int64_t> integer = as_integer(*found);
  if (!integer || *integer < 1 || *integer > 1 << 20) {
    return fault(source,
                 absl::StrCat(key, ": must be an integer in [1, 1048576], is ", shown(*found)));
  }
  value = static_cast<int32_t>(*integer);
  return absl::OkStatus();
}

absl::Status read_options(const Json& description, const std::string& file,
                          AdapterOptions& options) {
  const auto found = description.find(kOptions);
  if (found == description.end() || !found->is_object()) {
    return fault(file, absl::StrCat(kOptions, ": must be an object with the adapter's options"));
  }
  const std::string source = absl::StrCat(file, ": ", kOptions);
  const std::pair<const char*, int32_t*> counts[] = {
      {"compress_block_size", &options.compress_block},
      {"compress_stride", &options.compress_stride},
      {"selection_block_size", &options.selection_block},
      {"num_selected_blocks", &options.selected_blocks},
      {"sliding_window_size", &options.window}};
  for (const auto& [key, value] : counts) {
    if (auto status = read_count(*found, key, source, *value); !status.ok()) return status;
  }
  if (auto status = read_compressor(*found, "k_compress_method", source, options.key_compressor);
      !status.ok()) {
    return status;
  }
  return read_compressor(*found, "v_compress_method", source, options.value_compressor);
}

// ---- Tensors ----

// How a revision names the tensors of a layer.
struct Names {
  std::string prefix{};      // "sparse_attn." in the last revision
  std::string positions{};   // behind "k_" or "v_"
  std::string gate{};        // without ".weight"
  bool one_network = false;  // one network for all KV heads, with biases
};

class Importer {
 public:
  Importer(const TorchTensors& tensors, std::string file, AdapterShape shape)
      : tensors_(tensors), file_(std::move(file)), shape_(shape) {}

  absl::Status read(ImportedAdapter& imported) {
    Adapter& adapter = imported.adapter;
    if (auto status = find_names(); !status.ok()) return status;
    if (auto status = complete_options(imported); !status.ok()) return status;
    if (auto status = validate(adapter.options); !status.ok()) {
      return fault(absl::StrCat(file_, ": ", kOptions), std::string(status.message()));
    }
    const LayerParameters layer = layer_parameters(shape_, adapter.options);
    adapter.shape = shape_;
    adapter.parameters.assign(static_cast<size_t>(layer.size * shape_.layers), 0);
    for (int32_t i = 0; i < shape_.layers; ++i) {
      float* const target = adapter.parameters.data() + layer.size * i;
      if (auto status = read_layer(i, layer, adapter.options, target); !status.ok()) return status;
    }
    return refuse_others();
  }

 private:
  std::string full_name(int32_t layer, const std::string& name) const {
    return absl::StrCat(layer, ".", names_.prefix, name);
  }
  const TorchTensor* find(int32_t layer, const std::string& name) const {
    const auto found = tensors_.find(full_name(layer, name));
    return found == tensors_.end() ? nullptr : &found->second;
  }

  // The first layer's names tell the revision.
  absl::Status find_names() {
    if (tensors_.contains("0.sparse_attn.compress_mem_kv")) {
      names_ = {"sparse_attn.", "intrablock_positions", "to_strategy_combine.0", true};
    } else if (tensors_.contains("0.strategy_combiner.0.weight")) {
      names_ = {"", "compress.pos_emb", "strategy_combiner.0", false};
    } else if (tensors_.contains("0.strategy_combiner.weight")) {
      names_ = {"", "compress.pos_emb", "strategy_combiner", false};
    } else {
      return fault(file_,
                   "expected a tensor \"0.strategy_combiner.0.weight\", "
                   "\"0.strategy_combiner.weight\" or \"0.sparse_attn.compress_mem_kv\"");
    }
    return absl::OkStatus();
  }

  // What the tensors of the first layer say of the options, and what no file says.
  absl::Status complete_options(ImportedAdapter& imported) {
    AdapterOptions& options = imported.adapter.options;
    const TorchTensor* const memory = find(0, "compress_mem_kv");
    if (memory == nullptr || memory->shape.size() != 4) {
      return fault(file_, absl::StrCat("tensor \"", full_name(0, "compress_mem_kv"),
                                       "\": must be there and have 4 dimensions"));
    }
    options.memory_slots = static_cast<int32_t>(std::min<int64_t>(memory->shape[2], 1 << 20));
    options.own_output = find(0, "combine_heads.weight") != nullptr;
    options.own_projections = find(0, "to_qkv.weight") != nullptr;
    options.compressor_norm = find(0, "k_compress.norm.weight") != nullptr;
    has_positions_ = find(0, "k_" + names_.positions) != nullptr;
    options.shared_mlp = options.mlp_bias = names_.one_network;
    options.gate =
        names_.gate == "strategy_combiner" ? GateFunction::kSoftmax : GateFunction::kSigmoid;
    if (!names_.one_network && options.compress_stride != options.compress_block) {
      imported.decisions.push_back(absl::StrCat("compress_stride ", options.compress_stride,
                                                " had no effect in the Python "
                                                "code of this revision: taken as ",
                                                options.compress_block));
      options.compress_stride = options.compress_block;
    }
    ++options.selected_blocks;
    imported.decisions.push_back(absl::StrCat("selects ", options.selected_blocks,
                                              " blocks: num_selected_blocks, and the row's own"));
    imported.decisions.push_back(absl::StrCat("gate ", std::string(name_of(options.gate)),
                                              ", as the names of its tensors tell"));
    find_units(options);
    return absl::OkStatus();
  }

  // The hidden layer's size, in the network of the first layer.
  void find_units(AdapterOptions& options) const {
    for (const char* side : {"k_", "v_"}) {
      const TorchTensor* const hidden = find(0, side + network_name(0, 0) + ".weight");
      if (hidden == nullptr || hidden->shape.size() != 2) continue;
      const auto inputs = static_cast<double>(options.compress_block) * shape_.head_dim;
      // Half a unit more, since the product is rounded down.
      const auto units = static_cast<double>(hidden->shape[0]);
      options.mlp_expansion = units == inputs ? 1 : (units + 0.5) / inputs;
    }
  }

  // Behind "k_" or "v_"; step 0 is the hidden layer and step 1 the output.
  std::string network_name(int64_t network, int step) const {
    if (names_.one_network) return absl::StrCat("compress.", 2 * step + 1);
    return absl::StrCat("compress.compress_mlps.", network, ".", 2 * step);
  }

  // Copies one tensor of the file into part `part` of `parts` equal ones of ours.
  absl::Status copy(int32_t layer, const std::string& name, const AdapterTensor& tensor,
                    std::vector<int64_t> expected, int64_t part, float* parameters) {
    const std::string full = full_name(layer, name);
    const auto refuse = [&](const std::string& what) {
      return fault(file_, absl::StrCat("tensor \"", full, "\": ", what));
    };
    const auto found = tensors_.find(full);
    if (found == tensors_.end()) return refuse("is missing");
    const TorchTensor& source = found->second;
    if (source.shape != expected) {
      return refuse(absl::StrCat("expected the shape [", absl::StrJoin(expected, ", "),
                                 "], found [", absl::StrJoin(source.shape, ", "), "]"));
    }
    if (!source.dtype) return refuse(absl::StrCat("values of type ", source.type, " are not read"));
    int64_t stride = 1;
    for (size_t i = expected.size(); i-- > 0; stride *= expected[i]) {
      if (expected[i] != 1 && source.strides[i] != stride) return refuse("is not contiguous");
    }
    float* const target = parameters + tensor.offset + part * source.elements;
    const std::span<const std::byte> bytes(
        source.data, static_cast<size_t>(source.elements * size_of(*source.dtype)));
    cast_values(bytes, *source.dtype,
                std::as_writable_bytes(std::span(target, static_cast<size_t>(source.elements))),
                DType::kF32);
    for (int64_t i = 0; i < source.elements; ++i) {
      if (!std::isfinite(target[i])) return refuse(absl::StrCat("value ", i, " is not finite"));
    }
    used_.insert(full);
    return absl::OkStatus();
  }

  absl::Status read_compressor_tensors(int32_t layer, const std::string& side,
                                       const CompressorTensors& tensors, float* parameters) {
    absl::Status status;
    const auto take = [&](const std::string& name, const AdapterTensor& tensor,
                          std::vector<int64_t> shape, int64_t part = 0) {
      if (status.ok())
        status = copy(layer, side + name, tensor, std::move(shape), part, parameters);
    };
    if (has_positions_) take(names_.positions, tensors.positions, tensors.positions.shape);
    if (tensors.norm.present()) take("compress.norm.weight", tensors.norm, tensors.norm.shape);
    if (!tensors.hidden_weight.present()) return status;
    const auto rest = [](const AdapterTensor& tensor) {  // without the number of networks
      return std::vector<int64_t>(tensor.shape.begin() + 1, tensor.shape.end());
    };
    for (int64_t network = 0; network < tensors.hidden_weight.shape[0]; ++network) {
      const std::string hidden = network_name(network, 0), out = network_name(network, 1);
      take(hidden + ".weight", tensors.hidden_weight, rest(tensors.hidden_weight), network);
      take(out + ".weight", tensors.out_weight, rest(tensors.out_weight), network);
      if (!tensors.hidden_bias.present()) continue;
      take(hidden + ".bias", tensors.hidden_bias, rest(tensors.hidden_bias), network);
      take(out + ".bias", tensors.out_bias, rest(tensors.out_bias), network);
    }
    return status;
  }

  absl::Status read_layer(int32_t index, const LayerParameters& layer,
                          const AdapterOptions& options, float* parameters) {
    auto status = read_compressor_tensors(index, "k_", layer.keys, parameters);
    if (status.ok()) status = read_compressor_tensors(index, "v_", layer.values, parameters);
    const auto take = [&](const std::string& name, const AdapterTensor& tensor) {
      if (status.ok()) status = copy(index, name, tensor, tensor.shape, 0, parameters);
    };
    take("compress_mem_kv", layer.memory);
    take(names_.gate + ".weight", layer.gate_weight);
    take(names_.gate + ".bias", layer.gate_bias);
    if (options.own_output) take("combine_heads.weight", layer.output);
    if (options.own_projections) take("to_qkv.weight", layer.projections);
    return status;
  }

  absl::Status refuse_others() const {
    for (const auto& [name, tensor] : tensors_) {
      if (used_.contains(name)) continue;
      return fault(file_, absl::StrCat("tensor ", shown(name), ": is of no part of this adapter"));
    }
    return absl::OkStatus();
  }

  const TorchTensors& tensors_;
  const std::string file_;
  const AdapterShape shape_;
  Names names_{};
  bool has_positions_ = false;
  std::set<std::string> used_{};
};

}  // namespace

bool has_torch_adapter(const std::filesystem::path& folder) {
  std::error_code ignored;
  return std::filesystem::is_regular_file(folder / kTensors, ignored);
}

absl::StatusOr<ImportedAdapter> import_torch_adapter(const std::filesystem::path& folder,
                                                     const AdapterShape& shape) {
  const std::string description_file = (folder / kDescription).string();
  const auto text = read_file(folder / kDescription, kMaxJsonBytes);
  if (!text.ok()) return text.status();
  const auto description = parse_json_object(*text, description_file);
  if (!description.ok()) return description.status();
  ImportedAdapter imported;
  if (auto status = read_options(*description, description_file, imported.adapter.options);
      !status.ok()) {
    return status;
  }
  const auto file = TorchFile::open(folder / kTensors);
  if (!file.ok()) return file.status();
  if (auto status = Importer(file->tensors(), file->path().string(), shape).read(imported);
      !status.ok()) {
    return status;
  }
  imported.adapter.training = {{"imported_from", *description}};
  return imported;
}

}  // namespace kascade::convert
