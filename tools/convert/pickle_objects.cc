#include "tools/convert/pickle_objects.h"

#include <array>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/model/json.h"

namespace kascade::convert {
namespace {

constexpr size_t kMaxDimensions = 8;

constexpr StorageType kStorageTypes[] = {
    {"FloatStorage", "float32", 4, DType::kF32}, {"BFloat16Storage", "bfloat16", 2, DType::kBF16},
    {"HalfStorage", "float16", 2, DType::kF16},  {"DoubleStorage", "float64", 8, std::nullopt},
    {"LongStorage", "int64", 8, std::nullopt},   {"IntStorage", "int32", 4, std::nullopt},
    {"ShortStorage", "int16", 2, std::nullopt},  {"CharStorage", "int8", 1, std::nullopt},
    {"ByteStorage", "uint8", 1, std::nullopt},   {"BoolStorage", "bool", 1, std::nullopt},
};

absl::Status invalid(const std::string& fault) { return absl::InvalidArgumentError(fault); }

absl::StatusOr<std::vector<int64_t>> sizes_of(const Pickle& pickle, PickleId id) {
  const auto* tuple = pickle.as<PickleTuple>(id);
  if (!tuple) return pickle_mismatch(pickle, "a tuple of sizes", id);
  if (tuple->items.size() > kMaxDimensions) {
    return invalid(absl::StrCat("expected a tensor of at most ", kMaxDimensions,
                                " dimensions, found ", tuple->items.size()));
  }
  std::vector<int64_t> sizes;
  for (const PickleId item : tuple->items) {
    const auto* size = pickle.as<int64_t>(item);
    if (!size) return pickle_mismatch(pickle, "an integer as size of a tensor", item);
    if (*size < 0) return invalid(absl::StrCat("a size of a tensor is negative: ", *size));
    sizes.push_back(*size);
  }
  return sizes;
}

// The arguments are (storage, offset, shape, strides, requires_grad, hooks[, metadata]).
absl::StatusOr<PickleValue> tensor_of(const Pickle& pickle, const std::vector<PickleId>& items) {
  if (items.size() != 6 && items.size() != 7) {
    return invalid(absl::StrCat("expected a tensor of 6 or 7 arguments, found ", items.size()));
  }
  const auto* storage = pickle.as<StorageRef>(items[0]);
  const auto* offset = pickle.as<int64_t>(items[1]);
  if (!storage) return pickle_mismatch(pickle, "a storage", items[0]);
  if (!offset || *offset < 0) return invalid("the offset of a tensor must be an integer ≥ 0");
  auto shape = sizes_of(pickle, items[2]);
  if (!shape.ok()) return shape.status();
  auto strides = sizes_of(pickle, items[3]);
  if (!strides.ok()) return strides.status();
  if (shape->size() != strides->size()) {
    return invalid(
        absl::StrCat("expected ", shape->size(), " strides of a tensor, found ", strides->size()));
  }
  // Metadata states that the elements are to be negated or conjugated.
  const auto* metadata = items.size() == 7 ? pickle.as<PickleMap>(items[6]) : nullptr;
  if (metadata && !metadata->items.empty()) {
    return absl::UnimplementedError("a tensor with metadata (a negated or conjugated view)");
  }
  return TensorRef{*storage, *offset, *std::move(shape), *std::move(strides)};
}

// The arguments are (tensor, requires_grad, hooks).
absl::StatusOr<PickleValue> parameter_of(const Pickle& pickle, const std::vector<PickleId>& items) {
  if (items.size() != 3) {
    return invalid(absl::StrCat("expected a parameter of 3 arguments, found ", items.size()));
  }
  const auto* tensor = pickle.as<TensorRef>(items[0]);
  if (!tensor) return pickle_mismatch(pickle, "a tensor", items[0]);
  return *tensor;
}

}  // namespace

absl::Status pickle_mismatch(const Pickle& pickle, const std::string& expected, PickleId found) {
  static constexpr std::array<const char*, std::variant_size_v<PickleValue>> kKinds = {
      "None",   "a boolean",    "an integer", "a float",        "a string",  "a tuple",
      "a list", "a dictionary", "a name",     "a storage type", "a storage", "a tensor"};
  return invalid(
      absl::StrCat("expected ", expected, ", found ", kKinds[pickle.values[found].index()]));
}

absl::StatusOr<PickleValue> named_object(const std::string& module, const std::string& object) {
  const std::string name = absl::StrCat(module, ".", object);
  if (name == "collections.OrderedDict") return PickleGlobal::kOrderedDict;
  if (name == "torch._utils._rebuild_tensor_v2") return PickleGlobal::kRebuildTensor;
  if (name == "torch._utils._rebuild_parameter") return PickleGlobal::kRebuildParameter;
  for (const StorageType& type : kStorageTypes) {
    if (module == "torch" && object == type.global) return &type;
  }
  return absl::UnimplementedError(
      absl::StrCat("the name ", shown(name),
                   " is not allowed in a checkpoint: only tensors and dictionaries are read, and "
                   "nothing is run"));
}

absl::StatusOr<PickleValue> stored_object(const Pickle& pickle, PickleId id) {
  const auto* tuple = pickle.as<PickleTuple>(id);
  if (!tuple || tuple->items.size() != 5) {
    return pickle_mismatch(pickle, "a tuple of 5 for a storage", id);
  }
  const auto* tag = pickle.as<std::string_view>(tuple->items[0]);
  const auto* type = pickle.as<const StorageType*>(tuple->items[1]);
  const auto* key = pickle.as<std::string_view>(tuple->items[2]);
  const auto* elements = pickle.as<int64_t>(tuple->items[4]);
  if (!tag || *tag != "storage" || !type || !key || !elements || *elements < 0) {
    return invalid("expected (\"storage\", type, key, device, elements), found another tuple");
  }
  return StorageRef{*type, *key, *elements};
}

absl::StatusOr<PickleValue> called_object(const Pickle& pickle, PickleId callee,
                                          PickleId arguments) {
  const auto* tuple = pickle.as<PickleTuple>(arguments);
  if (!tuple) return pickle_mismatch(pickle, "a tuple of arguments", arguments);
  const auto* what = pickle.as<PickleGlobal>(callee);
  if (!what) return pickle_mismatch(pickle, "the name of a function", callee);
  switch (*what) {
    case PickleGlobal::kOrderedDict:
      if (!tuple->items.empty()) return invalid("expected an OrderedDict without arguments");
      return PickleMap{};
    case PickleGlobal::kRebuildTensor:
      return tensor_of(pickle, tuple->items);
    case PickleGlobal::kRebuildParameter:
      return parameter_of(pickle, tuple->items);
  }
  return invalid("expected the name of a function");
}

}  // namespace kascade::convert
