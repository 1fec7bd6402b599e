#include "engine/adapter/adapter_file.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/durable_file.h"
#include "engine/model/file.h"
#include "engine/model/json.h"
#include "engine/model/safetensors.h"

namespace kascade {
namespace {

using Json = nlohmann::json;

constexpr char kDescription[] = "adapter.json";
constexpr char kTensors[] = "adapter.safetensors";
constexpr int64_t kMaxJsonBytes = 1 << 20;
constexpr int64_t kMaxParameterBytes = int64_t{16} << 30;

absl::Status fault(const std::string& source, const std::string& what) {
  return absl::InvalidArgumentError(absl::StrCat(source, ": ", what));
}

// Reads the keys of an object; the first fault is kept, and keys that nobody read are one.
class Fields {
 public:
  Fields(const Json& object, std::string source) : object_(object), source_(std::move(source)) {
    if (!object.is_object()) fail("must be an object");
  }

  void read(const std::string& key, int32_t& value) {
    const Json* found = find(key);
    if (found == nullptr) return;
    const std::optional<int64_t> integer = as_integer(*found);
    if (!integer || *integer < INT32_MIN || *integer > INT32_MAX) {
      return fail(absl::StrCat(key, ": must be an integer of 32 bits, is ", shown(*found)));
    }
    value = static_cast<int32_t>(*integer);
  }
  void read(const std::string& key, double& value) {
    const Json* found = find(key);
    if (found == nullptr) return;
    if (!found->is_number())
      return fail(absl::StrCat(key, ": must be a number, is ", shown(*found)));
    value = found->get<double>();
  }
  void read(const std::string& key, bool& value) {
    const Json* found = find(key);
    if (found == nullptr) return;
    if (!found->is_boolean()) {
      return fail(absl::StrCat(key, ": must be true or false, is ", shown(*found)));
    }
    value = found->get<bool>();
  }
  void read(const std::string& key, std::string& value) {
    const Json* found = find(key);
    if (found == nullptr) return;
    if (!found->is_string()) return fail(absl::StrCat(key, ": must be a text, is ", shown(*found)));
    value = found->get<std::string>();
  }
  template <typename Value, typename Named>
  void read_named(const std::string& key, Value& value, Named named) {
    std::string name;
    read(key, name);
    if (!status_.ok()) return;
    const absl::StatusOr<Value> parsed = named(name);
    if (!parsed.ok()) return fail(absl::StrCat(key, ": ", std::string(parsed.status().message())));
    value = *parsed;
  }
  // The value of a key whose type the caller checks; null if it is missing.
  const Json* find(const std::string& key) {
    if (!status_.ok()) return nullptr;
    known_.insert(key);
    const auto found = object_.find(key);
    if (found != object_.end()) return &*found;
    fail(absl::StrCat("\"", key, "\" is missing"));
    return nullptr;
  }
  void fail(const std::string& what) {
    if (status_.ok()) status_ = fault(source_, what);
  }
  // The first fault.
  absl::Status finish() {
    if (!status_.ok()) return status_;
    for (const auto& item : object_.items()) {
      if (!known_.contains(item.key())) fail(absl::StrCat("unknown key ", shown(item.key())));
    }
    return status_;
  }

 private:
  const Json& object_;
  std::string source_;
  std::set<std::string> known_;
  absl::Status status_;
};

// The limits keep the sizes of all tensors within 64 bits.
absl::Status check_shape(const AdapterShape& shape, const std::string& source) {
  struct Size {
    const char* name;
    int32_t value;
    int32_t most;
  };
  for (const auto& [name, value, most] :
       {Size{"layers", shape.layers, 1024}, Size{"hidden", shape.hidden, 1 << 16},
        Size{"heads", shape.heads, 4096}, Size{"kv_heads", shape.kv_heads, 1024},
        Size{"head_dim", shape.head_dim, 1024}}) {
    if (value >= 1 && value <= most) continue;
    return fault(source, absl::StrCat("model.", name, ": must be in [1, ", most, "], is ", value));
  }
  if (shape.heads % shape.kv_heads == 0) return absl::OkStatus();
  return fault(source, absl::StrCat("model.heads: must be a multiple of kv_heads, which is ",
                                    shape.kv_heads, "; is ", shape.heads));
}

absl::StatusOr<AdapterShape> shape_from(const Json& object, const std::string& source,
                                        std::string& weights_digest) {
  AdapterShape shape;
  Fields fields(object, absl::StrCat(source, ": model"));
  fields.read("weights_digest", weights_digest);
  fields.read("layers", shape.layers);
  fields.read("hidden", shape.hidden);
  fields.read("heads", shape.heads);
  fields.read("kv_heads", shape.kv_heads);
  fields.read("head_dim", shape.head_dim);
  if (auto status = fields.finish(); !status.ok()) return status;
  if (auto status = check_shape(shape, source); !status.ok()) return status;
  return shape;
}

// What adapter.json says; the parameters are left empty.
absl::StatusOr<Adapter> description_from(const Json& object, const std::string& source) {
  Adapter adapter;
  Fields fields(object, source);
  int32_t format = 0;
  fields.read("format", format);
  if (format != kAdapterFormat) {
    fields.fail(absl::StrCat("format: must be ", kAdapterFormat, ", is ", format));
  }
  const Json* model = fields.find("model");
  const Json* options = fields.find("options");
  const Json* training = fields.find("training");
  if (auto status = fields.finish(); !status.ok()) return status;
  if (!training->is_object()) return fault(source, "training: must be an object");
  auto shape = shape_from(*model, source, adapter.weights_digest);
  if (!shape.ok()) return shape.status();
  auto parsed = adapter_options_from(*options, absl::StrCat(source, ": options"));
  if (!parsed.ok()) return parsed.status();
  adapter.shape = *shape;
  adapter.options = *parsed;
  adapter.training = *training;
  return adapter;
}

void read_gate_start(Fields& fields, AdapterOptions& options) {
  const Json* start = fields.find("gate_start");
  if (start == nullptr) return;
  const bool numbers = start->is_array() && start->size() == kBranches &&
                       std::all_of(start->begin(), start->end(),
                                   [](const Json& value) { return value.is_number(); });
  if (!numbers) {
    return fields.fail(absl::StrCat("gate_start: must be three numbers, is ", shown(*start)));
  }
  for (int b = 0; b < kBranches; ++b) options.gate_start[b] = (*start)[b].get<double>();
}

std::string tensor_name(int32_t layer, const AdapterTensor& tensor) {
  return absl::StrCat("layers.", layer, ".", tensor.name);
}

absl::Status check_tensor(const StoredTensor& stored, const AdapterTensor& tensor,
                          const std::string& where) {
  if (stored.dtype != "F32") {
    return absl::InvalidArgumentError(absl::StrCat(where, ": must be F32, is ", stored.dtype));
  }
  if (stored.shape != tensor.shape) {
    const auto listed = [](const std::vector<int64_t>& shape) { return shown(Json(shape)); };
    return absl::InvalidArgumentError(absl::StrCat(
        where, ": must have the shape ", listed(tensor.shape), ", has ", listed(stored.shape)));
  }
  return absl::OkStatus();
}

}  // namespace

nlohmann::ordered_json to_json(const AdapterOptions& options) {
  return {{"compress_block", options.compress_block},
          {"compress_stride", options.compress_stride},
          {"key_compressor", std::string(name_of(options.key_compressor))},
          {"value_compressor", std::string(name_of(options.value_compressor))},
          {"mlp_expansion", options.mlp_expansion},
          {"mlp_bias", options.mlp_bias},
          {"shared_mlp", options.shared_mlp},
          {"shared_positions", options.shared_positions},
          {"compressor_norm", options.compressor_norm},
          {"memory_slots", options.memory_slots},
          {"sees_own_window", options.sees_own_window},
          {"selection_block", options.selection_block},
          {"selected_blocks", options.selected_blocks},
          {"first_blocks", options.first_blocks},
          {"local_blocks", options.local_blocks},
          {"window", options.window},
          {"gate", std::string(name_of(options.gate))},
          {"gate_start", options.gate_start},
          {"own_output", options.own_output},
          {"own_projections", options.own_projections}};
}

absl::StatusOr<AdapterOptions> adapter_options_from(const Json& object, const std::string& source) {
  AdapterOptions options;
  Fields fields(object, source);
  fields.read("compress_block", options.compress_block);
  fields.read("compress_stride", options.compress_stride);
  fields.read_named("key_compressor", options.key_compressor, compressor_named);
  fields.read_named("value_compressor", options.value_compressor, compressor_named);
  fields.read("mlp_expansion", options.mlp_expansion);
  fields.read("mlp_bias", options.mlp_bias);
  fields.read("shared_mlp", options.shared_mlp);
  fields.read("shared_positions", options.shared_positions);
  fields.read("compressor_norm", options.compressor_norm);
  fields.read("memory_slots", options.memory_slots);
  fields.read("sees_own_window", options.sees_own_window);
  fields.read("selection_block", options.selection_block);
  fields.read("selected_blocks", options.selected_blocks);
  fields.read("first_blocks", options.first_blocks);
  fields.read("local_blocks", options.local_blocks);
  fields.read("window", options.window);
  fields.read_named("gate", options.gate, gate_named);
  read_gate_start(fields, options);
  fields.read("own_output", options.own_output);
  fields.read("own_projections", options.own_projections);
  if (auto status = fields.finish(); !status.ok()) return status;
  if (auto status = validate(options); !status.ok()) {
    return fault(source, std::string(status.message()));
  }
  return options;
}

std::string parameters_file(const std::vector<float>& parameters, const LayerParameters& layer,
                            int32_t layers) {
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  for (int32_t index = 0; index < layers; ++index) {
    for (const AdapterTensor* tensor : layer.present()) {
      const int64_t begin = (index * layer.size + tensor->offset) * int64_t{sizeof(float)};
      const int64_t end = begin + tensor->size() * int64_t{sizeof(float)};
      header[tensor_name(index, *tensor)] = {
          {"dtype", "F32"}, {"shape", tensor->shape}, {"data_offsets", {begin, end}}};
    }
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');
  const uint64_t length = text.size();
  std::string file(reinterpret_cast<const char*>(&length), sizeof(length));
  file += text;
  file.append(reinterpret_cast<const char*>(parameters.data()), parameters.size() * sizeof(float));
  return file;
}

absl::StatusOr<std::vector<float>> parameters_from(const std::string& content,
                                                   const std::string& source,
                                                   const LayerParameters& layer, int32_t layers) {
  auto tensors = parse_safetensors(source, content);
  if (!tensors.ok()) return tensors.status();
  const size_t expected = layer.present().size() * static_cast<size_t>(layers);
  // Checked before any memory is taken, because the sizes come from a file.
  for (int32_t index = 0; index < layers; ++index) {
    for (const AdapterTensor* tensor : layer.present()) {
      const std::string name = tensor_name(index, *tensor);
      const auto found = tensors->find(name);
      if (found == tensors->end())
        return fault(source, absl::StrCat("tensor ", name, " is missing"));
      const absl::Status status =
          check_tensor(found->second, *tensor, absl::StrCat(source, ": tensor ", name));
      if (!status.ok()) return status;
    }
  }
  if (tensors->size() != expected) {
    return fault(source, absl::StrCat("has ", tensors->size(), " tensors, expected ", expected));
  }
  std::vector<float> parameters(static_cast<size_t>(layer.size * layers));
  for (int32_t index = 0; index < layers; ++index) {
    for (const AdapterTensor* tensor : layer.present()) {
      float* to = parameters.data() + index * layer.size + tensor->offset;
      std::memcpy(to, tensors->at(tensor_name(index, *tensor)).data,
                  tensor->size() * sizeof(float));
      if (std::all_of(to, to + tensor->size(), [](float value) { return std::isfinite(value); })) {
        continue;
      }
      return fault(source, absl::StrCat("tensor ", tensor_name(index, *tensor),
                                        " holds a value that is not finite"));
    }
  }
  return parameters;
}

absl::StatusOr<Adapter> parse_adapter(const std::string& description, const std::string& tensors,
                                      const std::filesystem::path& folder) {
  const std::string source = (folder / kDescription).string();
  auto object = parse_json_object(description, source);
  if (!object.ok()) return object.status();
  auto adapter = description_from(*object, source);
  if (!adapter.ok()) return adapter.status();
  auto parameters =
      parameters_from(tensors, (folder / kTensors).string(),
                      layer_parameters(adapter->shape, adapter->options), adapter->shape.layers);
  if (!parameters.ok()) return parameters.status();
  adapter->parameters = *std::move(parameters);
  return adapter;
}

absl::StatusOr<Adapter> load_adapter(const std::filesystem::path& folder) {
  const auto description = read_file(folder / kDescription, kMaxJsonBytes);
  if (!description.ok()) return description.status();
  const auto tensors = read_file(folder / kTensors, kMaxParameterBytes);
  if (!tensors.ok()) return tensors.status();
  return parse_adapter(*description, *tensors, folder);
}

absl::Status save_adapter(const Adapter& adapter, const std::filesystem::path& folder) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error) {
    return absl::UnknownError(
        absl::StrCat("cannot create ", folder.string(), ": ", error.message()));
  }
  const nlohmann::ordered_json description = {
      {"format", kAdapterFormat},
      {"model",
       {{"weights_digest", adapter.weights_digest},
        {"layers", adapter.shape.layers},
        {"hidden", adapter.shape.hidden},
        {"heads", adapter.shape.heads},
        {"kv_heads", adapter.shape.kv_heads},
        {"head_dim", adapter.shape.head_dim}}},
      {"options", to_json(adapter.options)},
      {"training", adapter.training.is_null() ? Json::object() : adapter.training}};
  const std::string parameters = parameters_file(
      adapter.parameters, layer_parameters(adapter.shape, adapter.options), adapter.shape.layers);
  if (auto status = write_durably(parameters, folder / kTensors); !status.ok()) {
    return status;
  }
  return write_durably(description.dump(2) + "\n", folder / kDescription);
}

}  // namespace kascade
