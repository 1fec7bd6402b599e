// Reads the pickle stream of a PyTorch checkpoint as data. Nothing is imported or called: the few
// names that torch.save writes for tensors and dictionaries become values of this reader, and any
// other name or opcode is refused.
#ifndef KASCADE_TOOLS_CONVERT_PICKLE_H_
#define KASCADE_TOOLS_CONVERT_PICKLE_H_

#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/backend/tensor.h"

namespace kascade::convert {

// identifies a value within its Pickle; values may be shared and even cyclic
using PickleId = uint32_t;

struct StorageType {
  std::string_view global{};     // name in the module torch: "BFloat16Storage"
  std::string_view name{};       // "bfloat16"
  int64_t bytes = 0;             // bytes of an element
  std::optional<DType> dtype{};  // unset if the engine has no such type
};

struct PickleNull {};
struct PickleTuple {
  std::vector<PickleId> items{};
};
struct PickleList {
  std::vector<PickleId> items{};
};
struct PickleMap {
  std::vector<std::pair<PickleId, PickleId>> items{};
};
enum class PickleGlobal : uint8_t { kOrderedDict, kRebuildTensor, kRebuildParameter };
struct StorageRef {
  const StorageType* type = nullptr;
  std::string_view key{};  // its content is the archive entry data/<key>
  int64_t elements = 0;    // ≥ 0
};
struct TensorRef {
  StorageRef storage{};
  int64_t offset = 0;              // offset of the first element, in elements; ≥ 0
  std::vector<int64_t> shape{};    // at most 8 sizes ≥ 0
  std::vector<int64_t> strides{};  // in elements, ≥ 0; as many as sizes
};

// A value of the pickle. Strings are views of the stream.
using PickleValue =
    std::variant<PickleNull, bool, int64_t, double, std::string_view, PickleTuple, PickleList,
                 PickleMap, PickleGlobal, const StorageType*, StorageRef, TensorRef>;

struct Pickle {
  std::deque<PickleValue> values{};
  PickleId root = 0;

  // Returns null if the value is not a T.
  template <typename T>
  const T* as(PickleId id) const {
    return std::get_if<T>(&values[id]);
  }
};

// Reads one pickle of protocol 2 that fills `stream`, which must outlive the result. Errors start
// with `where` and name the byte offset. UNIMPLEMENTED for opcodes and names that are not allowed,
// INVALID_ARGUMENT for invalid content or content beyond the limits (16 MiB, 2^18 values).
absl::StatusOr<Pickle> read_pickle(std::string_view stream, const std::string& where);

}  // namespace kascade::convert

#endif  // KASCADE_TOOLS_CONVERT_PICKLE_H_
